"""Encoding of clips and captions, and stores of the latents."""
