"""Training of the 3D causal VAE: reconstruction, perceptual, KL and adversarial losses."""
