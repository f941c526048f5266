"""The VAE without gradients: exact slicing, tiling, offloading."""
