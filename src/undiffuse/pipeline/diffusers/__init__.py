"""diffusers' folders: their names and fields as ours, and the other way round."""
