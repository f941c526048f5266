"""The sizes at which `gpu.py` measures: the real models and the clip that they were trained on, or tiny ones.

Axes: b batch, t latent frames, h w latent size.
"""

from dataclasses import replace

from gpu_run import Run

from cogvideox.pretrained.offload.hardware import GPUS
from cogvideox.pretrained.offload.transformer_cost import BatchShape
from cogvideox.transformer.config import PRESETS, TransformerConfig
from cogvideox.vae.config import VAEConfig

Size = tuple[int, int, int]

LATENTS = (13, 60, 90)
REDUCED = (5, 30, 44)  # two chunks of the VAE
TINY = (3, 4, 6)
_TINY_WIDTHS = {"num_attention_heads": 2, "num_layers": 2, "text_embed_dim": 16, "max_text_seq_length": 8}
_TINY_SIZE = {"sample_frames": 9, "sample_height": 4, "sample_width": 6}
TINY_VAE = VAEConfig(block_out_channels=(4, 8, 8, 8), norm_num_groups=2, layers_per_block=1)
BATCH = 2  # the two halves of guidance
PEAK = GPUS["H100"].peak


def config_of(run: Run, preset: str) -> tuple[TransformerConfig, Size]:
    """A transformer and the latents' frames, height and width."""
    config = PRESETS[preset]()
    return (replace(config, **_TINY_WIDTHS, **_TINY_SIZE), TINY) if run.tiny else (config, LATENTS)


def clip_of(config: TransformerConfig, size: Size, batch: int = BATCH) -> BatchShape:
    """What a forward works on."""
    return BatchShape(batch, *size, config.max_text_seq_length)
