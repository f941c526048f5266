"""The parameter count of an arm, and the tokens and FLOPs of its training.

They are used to report and check what is equal across arms.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from cogvideox.ablation.arm import Arm, Settings
from cogvideox.dataset.config import ToyboxClips
from cogvideox.geometry import latent_shape
from cogvideox.pretrained.model_spec import read_spec
from cogvideox.pretrained.offload.transformer_cost import BatchShape
from cogvideox.training.config import VAETraining
from cogvideox.training.diffusion.config import DiffusionTraining
from cogvideox.training.metrics.throughput import step_flops
from cogvideox.transformer.config import TransformerConfig
from cogvideox.transformer.model import Transformer
from cogvideox.vae.model import CausalVAE

BASE = "toybox"
"""The base model: its VAE config is used for all stages, its transformer config if no stage sets one."""


@dataclass(frozen=True)
class Costs:
    """Costs of an arm at the nominal numbers of steps.

    Attributes:
        tokens: tokens per step in the last stage; for a VAE, pixels per step.
        flops: total FLOPs of all stages; for a VAE, total pixels.
    """

    parameters: int
    tokens: float
    flops: float


def costs_of(arm: Arm) -> Costs:
    """Compute the costs of an arm from its configs."""
    *_, (tokens, _) = per_step = [step_costs(stage, arm.stages) for stage in arm.stages]
    flops = sum(stage.run.num_steps * flops for stage, (_, flops) in zip(arm.stages, per_step, strict=True))
    return Costs(count_parameters(arm.stages), tokens, flops)


def count_parameters(stages: Sequence[Settings]) -> int:
    """Return the number of parameters of the network that the stages train."""
    with torch.device("meta"):
        settings = stages[-1]
        network = (
            CausalVAE(settings.model) if isinstance(settings, VAETraining) else Transformer(transformer_of(stages))
        )
    return sum(parameter.numel() for parameter in network.parameters())


def transformer_of(stages: Sequence[Settings]) -> TransformerConfig:
    """Return the config of the transformer: that of the first stage with one, otherwise the base model's."""
    for stage in stages:
        if isinstance(stage, DiffusionTraining) and stage.transformer is not None:
            return stage.transformer
    return read_spec(BASE).transformer


def step_costs(settings: Settings, stages: Sequence[Settings]) -> tuple[float, float]:
    """Return the tokens and the FLOPs of a step, averaged over the sources in proportion to their weights."""
    if isinstance(settings, VAETraining):
        frames, height, width = settings.clips.num_frames, settings.clips.height, settings.clips.width
        pixels = float(settings.run.batch_size * frames * height * width)
        return pixels, pixels
    config, ratio = transformer_of(stages), read_spec(BASE).vae.spatial_compression_ratio
    formats = [(source.clips, source.weight) for source in settings.toybox]
    if not formats:  # clips of a latent store
        target = settings.target
        assert target.height is not None
        assert target.width is not None
        clips = ToyboxClips(1, num_frames=target.num_frames, height=target.height, width=target.width)
        formats = [(clips, 1.0)]
    total = sum(weight for _, weight in formats)
    tokens = flops = 0.0
    for clips, weight in formats:
        size = latent_shape(clips.num_rendered, clips.height, clips.width, ratio=ratio)
        shape = BatchShape(1, *size, config.max_text_seq_length)
        tokens += weight / total * shape.tokens(config)
        flops += weight / total * sum(step_flops(config, [shape]))
    clips_per_step = settings.row_tokens * settings.run.batch_size / tokens
    return clips_per_step * tokens, clips_per_step * flops
