"""What lies on disk and who wrote it: write-aside, the run folder, checkpoints, blocks of images, the cache."""
