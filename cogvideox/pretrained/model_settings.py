"""`cogvideox.json`: what a model folder says about its own use. Imports no torch.

The diffusers layout stores the networks and leaves the rest to whoever loads them: how many frames a second, which
size, how many steps, what an empty prompt is. A folder with a `cogvideox.json` says it; for one without, and for keys
that the file leaves out, the official values of the family hold, which the transformer's configuration gives away.
"""

from dataclasses import dataclass, field
from typing import Literal

from cogvideox.diffusion.config import Sampler
from cogvideox.transformer.config import GridRule, TransformerConfig
from cogvideox.vae.config import VAEConfig

Variant = Literal["2b", "5b", "5b-i2v", "1.5-5b", "1.5-5b-i2v"]


@dataclass(frozen=True)
class TrainedRange:
    """What the model saw in training, both ends included. Outside of it a request is warned about, not refused."""

    num_frames: tuple[int, int]
    frame_step: int  # frame counts were frame_step * N + 1
    height: tuple[int, int]  # pixels
    width: tuple[int, int]  # pixels


@dataclass(frozen=True)
class ModelSettings:
    """Defaults and rules of one model.

    null_text: what stands for "no prompt" under guidance, the text encoder's answer to `""` or a tensor of zeros.
    text_length: tokens that every prompt is padded to; the padding is attended to.
    position_rule: how rotary positions follow the size, see `transformer.position`; None for additive positions.
    norm_statistics: over what the VAE's group norms pool; the official weights know only the chunk of time.
    dtype: in what the model was trained, and runs on a GPU unless told otherwise.
    examples: prompts that show what the model can do; the first is used where no prompt is given.
    provenance: where the weights come from, for people.
    """

    fps: float
    height: int
    width: int
    num_frames: int
    num_inference_steps: int
    guidance_scale: float
    dynamic_guidance: bool
    sampler: Sampler
    null_text: Literal["empty", "zero"]
    text_length: int
    position_rule: GridRule | None
    norm_statistics: Literal["chunk"]
    dtype: Literal["float32", "bfloat16", "float16"]
    trained: TrainedRange
    examples: tuple[str, ...] = ()
    provenance: dict[str, str] = field(default_factory=dict)


def variant_of(config: TransformerConfig) -> Variant:
    """Which of the five official models a transformer is built like."""
    takes_image = config.in_channels != config.out_channels
    if config.patch_size_t is not None:
        return "1.5-5b-i2v" if takes_image else "1.5-5b"
    if takes_image:
        return "5b-i2v"
    return "5b" if config.use_rotary_positional_embeddings else "2b"


def official_settings(transformer: TransformerConfig, vae: VAEConfig, sampler: Sampler) -> ModelSettings:
    """The settings of the family, for a folder that does not state its own.

    Sizes follow the transformer's `sample_*`, so that a small model of the same make gets a size it can do. In the 1.5
    models these are the extent of the position table, an upper bound; the official size is 768x1360. The official
    samples use dynamic guidance with DPM++, and constant guidance with DDIM.
    """
    name = variant_of(transformer)
    ratio = vae.spatial_compression_ratio
    height, width = transformer.sample_height * ratio, transformer.sample_width * ratio
    if transformer.patch_size_t is None:
        trained = TrainedRange((1, transformer.sample_frames), 8, (height, height), (width, width))
    else:
        trained = TrainedRange((1, 161), 16, (min(height, 768), min(height, 1360)), (min(width, 768), min(width, 1360)))
        height, width = trained.height[0], trained.width[1]
    return ModelSettings(
        fps=8.0 if transformer.patch_size_t is None else 16.0,
        height=height,
        width=width,
        num_frames=transformer.sample_frames,
        num_inference_steps=50,
        guidance_scale=6.0,
        dynamic_guidance=sampler == "dpm++",
        sampler=sampler,
        null_text="empty",
        text_length=transformer.max_text_seq_length,
        position_rule=transformer.grid_rule,
        norm_statistics="chunk",
        dtype="float16" if name == "2b" else "bfloat16",
        trained=trained,
    )
