"""Data sets in memory and the order in which training sees them."""
