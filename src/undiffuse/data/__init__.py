"""Pictures in whatever state -> arrays of one shape, and the order in which training sees them."""
