"""Training: typed recipes and two honest loops, one for the VAE and one for the transformer."""
