"""Pictures of the process: curves, strips, animations and the report. Consumes arrays, frames and files."""
