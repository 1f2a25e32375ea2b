"""C kernels of this library's own for the CPU: 3x3 convolutions, group norm, attention, linear layers, draws."""
