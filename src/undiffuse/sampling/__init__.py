"""Many images as a job on a folder, which may be stopped and goes on."""
