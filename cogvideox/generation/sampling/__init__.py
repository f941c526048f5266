"""Denoising of one clip: guidance, step caching, windows and conditioning."""
