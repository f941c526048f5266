"""Losses of VAE training."""
