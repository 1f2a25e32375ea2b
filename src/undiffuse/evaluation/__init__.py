"""How good is a model? Samples beside real images, in numbers with an error."""
