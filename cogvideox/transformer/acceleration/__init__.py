"""Faster inference: choice of attention kernels, compiled blocks, CUDA graphs and float8 linear layers."""
