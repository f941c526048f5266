"""Encoding of clips to latents and their storage."""
