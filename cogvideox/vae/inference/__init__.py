"""Inference with the VAE: exact slicing in strips of rows, tiling and offloading."""
