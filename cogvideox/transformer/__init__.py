"""The expert transformer: noised latents and a text embedding to the velocity prediction (paper section 2.2)."""
