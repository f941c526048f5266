"""The denoising loop: guidance, step caching, windows, conditioning."""
