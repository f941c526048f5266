"""Reconstruction quality of a VAE."""
