"""Trainers of the VAE, the transformer, the text encoder, the toybox model and label classifiers; shared components."""
