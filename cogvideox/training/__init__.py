"""Training of the VAE, the transformer and the toybox model, and what they share."""
