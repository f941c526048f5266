"""Detect which of the five official models a transformer config belongs to."""

from typing import Literal

from cogvideox.transformer.config import TransformerConfig

Variant = Literal["2b", "5b", "5b-i2v", "1.5-5b", "1.5-5b-i2v"]


def variant_of(config: TransformerConfig) -> Variant:
    """Return the official model with the same transformer architecture."""
    if config.patch_size_t is not None:
        return "1.5-5b-i2v" if config.is_image_to_video else "1.5-5b"
    if config.is_image_to_video:
        return "5b-i2v"
    return "5b" if config.use_rotary_positional_embeddings else "2b"
