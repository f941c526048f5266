"""The expert transformer: noised latents and a prompt embedding to the predicted velocity (paper section 2.2)."""
