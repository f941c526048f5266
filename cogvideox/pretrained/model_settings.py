"""`cogvideox.json`: default sampling settings of a model folder.

The diffusers layout contains networks but no settings for sampling, such as frame rate, size, number of steps and null
prompt. These are in `cogvideox.json`. Missing keys, or all of them if the file is missing, have the official values of
the variant, which is inferred from the transformer's config.
"""

from dataclasses import dataclass, field
from typing import Literal

from cogvideox.diffusion.config import Sampler
from cogvideox.geometry import NormStatistics
from cogvideox.pretrained.detect_variant import variant_of
from cogvideox.transformer.config import PositionRule, TransformerConfig
from cogvideox.vae.config import VAEConfig

NullText = Literal["empty", "zero"]
"""The unconditional prompt embedding: that of the empty prompt, as in diffusers, or zeros, as in the authors' code."""


@dataclass(frozen=True)
class TrainedRange:
    """Inclusive ranges of sizes seen in training. Requests outside of them cause a warning."""

    num_frames: tuple[int, int]
    frame_step: int  # frame counts in training were frame_step * N + 1
    height: tuple[int, int]  # pixels
    width: tuple[int, int]  # pixels


@dataclass(frozen=True)
class ModelSettings:
    """Default sampling settings of a model.

    Attributes:
        fps, height, width, num_frames, num_inference_steps, guidance_scale, dynamic_guidance, sampler: defaults of a
            request; height and width in pixels.
        null_text: embedding of the null prompt in guidance: that of `""`, or zeros.
        training_null_text: embedding that replaces dropped captions in training; None: same as `null_text`.
        text_length: number of tokens to which prompts are padded; padding is not masked in attention.
        position_rule: how rotary positions depend on the size (`transformer.config`); None for sinusoidal positions.
        norm_statistics: how training clips are encoded (`CausalVAE.encode`). Decoding, and encoding for generation,
            always use chunks.
        dtype: training dtype, and the default on GPUs.
        trained: sizes seen in training.
        examples: example prompts; the first is the default prompt.
        provenance: description of the origin of the weights.
    """

    fps: float
    height: int
    width: int
    num_frames: int
    num_inference_steps: int
    guidance_scale: float
    dynamic_guidance: bool
    sampler: Sampler
    null_text: NullText
    text_length: int
    position_rule: PositionRule | None
    norm_statistics: NormStatistics
    dtype: Literal["float32", "bfloat16", "float16"]
    trained: TrainedRange
    training_null_text: NullText | None = None
    examples: tuple[str, ...] = ()
    provenance: dict[str, str] = field(default_factory=dict)


def official_settings(transformer: TransformerConfig, vae: VAEConfig, sampler: Sampler) -> ModelSettings:
    """Return the settings of the official model of the same variant, for a folder without `cogvideox.json`.

    Sizes are derived from the transformer's `sample_*`, so that a small model of the same variant gets a supported
    size. In the 1.5 models, `sample_*` is the size of the position table, an upper bound; the official size is
    768x1360. The official samples use dynamic guidance with DPM++ and constant guidance with DDIM. Generation uses the
    null prompt of diffusers; training uses the null prompt and the encoding of clips of the authors' code.
    """
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
        position_rule=transformer.position_rule,
        norm_statistics="clip",
        training_null_text="zero",
        dtype="float16" if variant_of(transformer) == "2b" else "bfloat16",
        trained=trained,
    )
