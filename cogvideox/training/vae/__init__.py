"""Training of the 3D causal VAE with reconstruction, perceptual, KL and GAN losses."""
