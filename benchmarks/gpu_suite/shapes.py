"""Shapes of the GPU benchmarks: the official models with the clip size that they were trained on, or tiny ones.

Axes: b batch, t latent frames, h w latent size.
"""

from dataclasses import replace

import torch
from gpu_suite.run import Run

from cogvideox.hardware.gpus import GPUS, gpu_rates
from cogvideox.pretrained.offload.transformer_cost import BatchShape
from cogvideox.transformer.config import TransformerConfig
from cogvideox.transformer.presets import PRESETS
from cogvideox.vae.config import VAEConfig

Size = tuple[int, int, int]

LATENTS = (13, 60, 90)
REDUCED = (5, 30, 44)  # two chunks of the VAE
TINY = (3, 4, 6)
_TINY_WIDTHS = {"num_attention_heads": 2, "num_layers": 2, "text_embed_dim": 16, "max_text_seq_length": 8}
_TINY_SIZE = {"sample_frames": 9, "sample_height": 4, "sample_width": 6}
TINY_VAE = VAEConfig(block_out_channels=(4, 8, 8, 8), norm_num_groups=2, layers_per_block=1)
BATCH = 2  # conditional and unconditional


def config_of(run: Run, preset: str) -> tuple[TransformerConfig, Size]:
    """Return the config of a transformer, and its latent frames, height and width."""
    config = PRESETS[preset]()
    return (replace(config, **_TINY_WIDTHS, **_TINY_SIZE), TINY) if run.tiny else (config, LATENTS)


def shape_of(config: TransformerConfig, size: Size, batch: int = BATCH) -> BatchShape:
    """Return the shape of the input of a forward pass."""
    return BatchShape(batch, *size, config.max_text_seq_length)


def peak_flops(run: Run) -> float:
    """Return the GPU's peak FLOP/s in bfloat16, or that of an H100 if the GPU is unknown."""
    peak = gpu_rates(torch.cuda.get_device_name(run.device), "bfloat16").peak if run.on_gpu else None
    return peak or GPUS["H100"].rates.peak
