"""Trainers of the VAE, the transformer and the toybox model, and their shared components."""
