"""Video file I/O, and conversion between frames and tensors."""
