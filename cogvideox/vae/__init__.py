"""The 3D causal VAE: video in [-1, 1] to latents that are 4x8x8 times smaller, and back (paper section 2.1)."""
