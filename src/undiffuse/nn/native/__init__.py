"""Kernels of this library's own for 3x3 convolutions and group norm on the CPU (float32, channels_last)."""
