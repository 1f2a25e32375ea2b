"""Training (Algorithm 1), its state on disk, and its diary."""
