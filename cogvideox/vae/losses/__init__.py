"""Losses of VAE training (paper section 2.1)."""
