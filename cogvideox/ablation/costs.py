"""The parameter count of an arm, and the tokens and FLOPs of its training.

They are used to report and check what is equal across arms.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from cogvideox.ablation.arm import Arm, Settings
from cogvideox.ablation.baselines import NUM_CLIPS
from cogvideox.dataset.config import ToyboxClips
from cogvideox.dataset.mixture import Mixture
from cogvideox.dataset.packed_loader import clip_table
from cogvideox.filter_policy.policy import Policy
from cogvideox.geometry import latent_shape
from cogvideox.pretrained.model_spec import read_spec
from cogvideox.pretrained.offload.transformer_cost import BatchShape
from cogvideox.pretrained.offload.vae_cost import vae_flops
from cogvideox.training.config import VAETraining
from cogvideox.training.diffusion.config import DiffusionTraining
from cogvideox.training.metrics.throughput import step_flops
from cogvideox.transformer.config import TransformerConfig
from cogvideox.transformer.model import Transformer
from cogvideox.vae.model import CausalVAE

BASE = "toybox"
"""The base model: its VAE config is used for all stages, its transformer config if no stage sets one."""
NUM_PLANNED_STEPS = 50
"""Steps over which the tokens of packed rows are averaged."""


@dataclass(frozen=True)
class Costs:
    """Costs of an arm at the nominal numbers of steps.

    Attributes:
        tokens: mean number of tokens per step in the last stage; for a VAE, pixels.
        row_budget: most tokens that the rows of a step can hold; for a VAE, the pixels.
        flops: total FLOPs of all stages, without those of the VAE's perceptual loss and discriminator.
    """

    parameters: int
    tokens: float
    row_budget: float
    flops: float


def costs_of(arm: Arm) -> Costs:
    """Compute the costs of an arm from its configs."""
    last = arm.settings
    transformer = transformer_of(arm.stages) if isinstance(last, DiffusionTraining) else None
    *_, (tokens, _) = per_step = [step_costs(stage, transformer) for stage in arm.stages]
    flops = sum(stage.run.num_steps * flops for stage, (_, flops) in zip(arm.stages, per_step, strict=True))
    budget = float(last.row_tokens * last.run.batch_size) if isinstance(last, DiffusionTraining) else tokens
    return Costs(count_parameters(arm.stages), tokens, budget, flops)


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


def step_costs(settings: Settings, transformer: TransformerConfig | None) -> tuple[float, float]:
    """Return the mean number of tokens (pixels of a VAE) and FLOPs of a step.

    Args:
        transformer: the trained transformer; None for a VAE.
    """
    if isinstance(settings, VAETraining):
        return _vae_step_costs(settings)
    assert transformer is not None
    return _diffusion_step_costs(settings, transformer)


def _diffusion_step_costs(settings: DiffusionTraining, transformer: TransformerConfig) -> tuple[float, float]:
    """Plan the first steps of a training, and count the tokens and FLOPs of the clips in their rows.

    The filter policy is left out: its scores are in stores whose clips have one size.
    """
    target, ratio = settings.target, read_spec(BASE).vae.spatial_compression_ratio
    clips = {str(source): source.clips for source in settings.toybox}
    if settings.data:
        assert target.height is not None
        assert target.width is not None
        size = ToyboxClips(NUM_CLIPS, num_frames=target.num_frames, height=target.height, width=target.width)
        clips |= {source.store: size for source in settings.data}
    shapes = {
        name: latent_shape(each.num_rendered, each.height, each.width, ratio=ratio) for name, each in clips.items()
    }
    text_length = transformer.max_text_seq_length
    tables = {
        name: clip_table(name, {}, np.tile(shape, (clips[name].num_clips, 1)), transformer, text_length)
        for name, shape in shapes.items()
    }
    mixture = Mixture(tables, replace(settings.mixture(), policy=Policy()), seed=0)
    state = mixture.initial_state()
    tokens = 0
    for _ in range(NUM_PLANNED_STEPS):
        plan = mixture.plan_step(state)
        tokens, state = tokens + plan.num_tokens, plan.state_after
    flops = sum(
        num_clips * sum(step_flops(transformer, [BatchShape(1, *shapes[lane.rpartition(" ")[0]], text_length)]))
        for lane, num_clips in state.seen.items()
    )
    return tokens / NUM_PLANNED_STEPS, flops / NUM_PLANNED_STEPS


def _vae_step_costs(settings: VAETraining) -> tuple[float, float]:
    """Count the pixels and FLOPs of steps with clips and with images.

    The backward pass has twice the FLOPs of the forward pass. The perceptual loss and the discriminator are left out.
    """
    model, clips, batch_size = settings.model, settings.clips, settings.run.batch_size
    fraction = 1 / settings.image_interval if settings.image_interval else 0.0
    batches = ((1 - fraction, batch_size, clips.num_frames), (fraction, batch_size * settings.images_per_clip, 1))
    pixels = flops = 0.0
    for weight, size, num_frames in batches:
        latents = latent_shape(
            num_frames,
            clips.height,
            clips.width,
            ratio=model.spatial_compression_ratio,
            frame_ratio=model.temporal_compression_ratio,
        )
        pixels += weight * size * num_frames * clips.height * clips.width
        flops += weight * size * 3 * sum(vae_flops(model, *latents, decoder=decoder) for decoder in (False, True))
    return pixels, flops
