"""Configurations of the five official transformers."""

from collections.abc import Callable
from dataclasses import replace

from cogvideox.transformer.config import TransformerConfig


def _5b() -> TransformerConfig:
    return TransformerConfig(num_attention_heads=48, num_layers=42, use_rotary_positional_embeddings=True)


def _1_5_5b() -> TransformerConfig:
    # The base size is that of the table from which rotary positions are sliced, which is larger than any clip.
    return replace(_5b(), patch_size_t=2, patch_bias=False, sample_height=300, sample_width=300, sample_frames=81)


PRESETS: dict[str, Callable[[], TransformerConfig]] = {
    "2b": TransformerConfig,
    "5b": _5b,
    "5b-i2v": lambda: replace(_5b(), in_channels=32, use_learned_positional_embeddings=True),
    "1.5-5b": _1_5_5b,
    "1.5-5b-i2v": lambda: replace(_1_5_5b(), in_channels=32, ofs_embed_dim=512),
}
"""The five official models."""
