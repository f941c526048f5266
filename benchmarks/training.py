"""A training step in this package and in a simple loop around diffusers' transformer, on the CPU in float32.

python benchmarks/training.py                     # all presets, about a minute and a half on two cores
python benchmarks/training.py --preset shipped

Both start with equal random weights and use the same latents and prompt embeddings (encoded in advance), noise and
timesteps, the mean squared error of the velocity, gradient clipping at 1, and fused AdamW. "diffusers" batches the
clips; "cogvideox" is a step of `training.diffusion.trainer`, which packs them into a row; "with an average" also
updates the EMA of the weights, as in every training run. A second row of each preset uses activation checkpointing in
both.

First, each variant runs three steps, whose losses and gradient norms must be equal. With --threads 1, times are CPU
times, which other programs disturb less.
"""

from collections.abc import Callable
from dataclasses import asdict, replace

import torch
import torch.nn.functional as F
from common import (
    Report,
    Variants,
    add_peaks,
    check_equal,
    cpu_clock,
    interleave,
    make_row,
    option_parser,
    parse_options,
    write_report,
)
from diffusers import CogVideoXDDIMScheduler
from pairs import TransformerPair, transformers
from torch import Tensor, nn

from cogvideox.dataset.mixture import MixtureState
from cogvideox.dataset.packed_loader import StepBatches
from cogvideox.diffusion.schedule import Schedule
from cogvideox.diffusion.timesteps import explicit_uniform
from cogvideox.parallel.parallelize import Checkpointing, parallelize
from cogvideox.records import PackedBatch
from cogvideox.training.config import OptimSettings
from cogvideox.training.diffusion.recipes import toy_transformer
from cogvideox.training.diffusion.trainer import accumulate_gradients
from cogvideox.training.ema import EMA
from cogvideox.training.optim import optimizers
from cogvideox.transformer.config import TransformerConfig
from cogvideox.transformer.presets import PRESETS as OFFICIAL

NUM_CHECKED = 3
# No weight decay, because this package applies it only to matrices, and a constant learning rate.
OPTIM = OptimSettings(lr=1e-4, weight_decay=0.0, warmup_steps=0, schedule="constant")
SCHEDULE = Schedule()

_SMALL = {"num_attention_heads": 4, "num_layers": 8, "text_embed_dim": 64, "max_text_seq_length": 32}
_TINY = {"num_attention_heads": 1, "num_layers": 2, "text_embed_dim": 16, "max_text_seq_length": 8}

# Description, config, latent frames, height and width, and clips per step.
PRESETS: dict[str, tuple[str, TransformerConfig, tuple[int, int, int], int]] = {
    "shipped": ("the shipped model's transformer", toy_transformer(), (3, 8, 8), 16),
    "small-rotary": ("width 256, 8 rotary blocks", replace(OFFICIAL["5b"](), **_SMALL), (5, 16, 16), 4),
}
TINY = {"tiny": ("width 64, rotary", replace(OFFICIAL["5b"](), **_TINY), (1, 4, 6), 2)}

Step = Callable[[], Tensor]
"""Runs a training step and returns the loss and the gradient norm."""


def trainable(config: TransformerConfig, size: tuple[int, int, int], batch: int, seed: int) -> TransformerPair:
    """Build both transformers with equal weights in separate memory."""
    pair = transformers(config, size, batch=batch, seed=seed)
    for network in (pair.cogvideox, pair.diffusers):
        for parameter in network.parameters():
            parameter.data = parameter.data.clone()
        network.requires_grad_(True).train()
    return replace(pair, timestep=explicit_uniform(seed, 0, batch))


def diffusers_step(pair: TransformerPair, noise: Tensor) -> Step:
    scheduler = CogVideoXDDIMScheduler.from_config(SCHEDULE.to_diffusers("ddim"))
    parameters = list(pair.diffusers.parameters())
    settings = {name: asdict(OPTIM)[name] for name in ("lr", "betas", "eps", "weight_decay")}
    optimizer = torch.optim.AdamW(parameters, **settings, fused=True)

    def step() -> Tensor:
        noised = scheduler.add_noise(pair.latents, noise, pair.timestep)
        target = scheduler.get_velocity(pair.latents, noise, pair.timestep)
        loss = F.mse_loss(replace(pair, latents=noised).predict_with_diffusers(), target)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(parameters, OPTIM.grad_clip)
        optimizer.step()
        optimizer.zero_grad()
        return torch.stack((loss.detach(), norm))

    return step


def cogvideox_step(pair: TransformerPair, noise: Tensor, *, average: bool = False) -> Step:
    ids = tuple(map(str, range(len(noise))))
    batch = PackedBatch(tuple(pair.latents), tuple(noise), pair.text, pair.timestep, ids)
    num_tokens = len(ids) * (pair.text.shape[1] + pair.latents[0, 0].numel() // 4)
    step_batches = StepBatches((batch,), len(ids), num_tokens, 1.0, {}, (), MixtureState())
    optimizer = optimizers.build_optimizer([pair.cogvideox], OPTIM)
    ema = EMA({"model": pair.cogvideox}, 0.999) if average else None

    def step() -> Tensor:
        loss, _ = accumulate_gradients(pair.cogvideox, step_batches, SCHEDULE, torch.device("cpu"))
        norm = optimizers.clip_grad_norm(optimizer, OPTIM)
        optimizers.optimizer_step(optimizer, 0, 1, OPTIM)
        if ema is not None:
            ema.update(0)
        return torch.stack((loss, norm))

    return step


def build_variants(build_pair: Callable[[], TransformerPair], noise: Tensor, checkpointed: bool) -> Variants:
    def diffusers() -> Step:
        pair = build_pair()
        if checkpointed:
            pair.diffusers.enable_gradient_checkpointing()
        return diffusers_step(pair, noise)

    def cogvideox(checkpointing: Checkpointing = "none", *, average: bool = False) -> Step:
        pair = build_pair()
        parallelize(pair.cogvideox, pair.cogvideox.blocks, checkpointing=checkpointing)
        return cogvideox_step(pair, noise, average=average)

    if checkpointed:
        return {
            "diffusers": diffusers(),
            "cogvideox": cogvideox("full"),
            "cogvideox, attention kept": cogvideox("selective"),
        }
    return {"diffusers": diffusers(), "cogvideox": cogvideox(), "cogvideox, with an average": cogvideox(average=True)}


def main() -> None:
    parser = option_parser(__doc__, "training", rounds=15, seconds=12)
    options, presets = parse_options(parser, PRESETS, TINY)
    rows: list[Report] = []
    measured: list[tuple[Report, Variants]] = []
    for name, (description, config, size, batch) in presets.items():
        noise = torch.randn(batch, config.in_channels, *size, generator=torch.Generator().manual_seed(options.seed + 1))
        for checkpointed in (False, True):
            variants = build_variants(lambda: trainable(config, size, batch, options.seed), noise, checkpointed)  # noqa: B023
            suffix = ", activation checkpointing" if checkpointed else ""
            task = f"step, {name}: {description}, {batch} clips of {'x'.join(map(str, size))}{suffix}"
            results = {
                variant: torch.stack([step() for _ in range(NUM_CHECKED)], dim=1) for variant, step in variants.items()
            }
            check_equal(f"gradient norms, {task}", {variant: norms for variant, (_, norms) in results.items()})
            errors = check_equal(f"losses, {task}", {variant: losses for variant, (losses, _) in results.items()})
            losses = {variant: losses.tolist() for variant, (losses, _) in results.items()}
            times = interleave(variants, options.rounds, seconds=options.seconds, warmup=0, clock=cpu_clock)
            rows.append(make_row(task, times, error=errors, losses=losses))
            measured.append((rows[-1], variants))
    for row, variants in measured:
        add_peaks(row, variants)
    write_report("training", {"dtype": "float32", "weights": f"random, seed {options.seed}"}, rows, options.out)


if __name__ == "__main__":
    main()
