"""Foreign formats as pure maps: no foreign library is imported."""
