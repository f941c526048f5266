"""VAE training (paper section 2.1): reconstruction, perceptual, KL and GAN losses on videos and images.

Axes: b batch, c channels, t frames, h w height and width; pixels in [-1, 1].

Clips, crops and noise of a step depend only on (seed, step), so a resumed run is bit-identical to an uninterrupted one
on a CPU, and on a GPU with `run.deterministic`. `out/vae/` contains the latest EMA weights in the diffusers layout.
"""

from functools import partial
from pathlib import Path

import torch

from cogvideox.config import to_dict
from cogvideox.dataset.prefetch import to_device
from cogvideox.errors import UserError
from cogvideox.parallel.environment import world_size
from cogvideox.parallel.parallelize import average_gradients
from cogvideox.pretrained.components import load_vae, save_vae
from cogvideox.pretrained.model_spec import find_model, shipped_models
from cogvideox.training.checkpoint import Checkpoints
from cogvideox.training.config import VAETraining
from cogvideox.training.ema import EMA
from cogvideox.training.metrics.tracker import StepWork
from cogvideox.training.optim.optimizers import build_adamw, clip_grad_norm, optimizer_step
from cogvideox.training.precision import with_precision
from cogvideox.training.rng import torch_generator
from cogvideox.training.run import training_run
from cogvideox.training.vae.clip_sources import Pixels, open_sources
from cogvideox.training.vae.context_parallel import MakeCache, mean_over_ranks, shard_step
from cogvideox.training.vae.data import Latents, make_batch, step_batch_size
from cogvideox.training.vae.gan import DiscriminatorTrainer
from cogvideox.training.vae.validation import normalize_latents, validate
from cogvideox.vae.init_weights import init_weights
from cogvideox.vae.losses.perceptual import LPIPS, PerceptualLoss, RandomFeatures
from cogvideox.vae.losses.shift_tolerant import ShiftTolerantLPIPS
from cogvideox.vae.losses.vae_loss import vae_loss
from cogvideox.vae.model import CausalVAE
from cogvideox.vae.posterior import Posterior

SHAPE_FIELDS = (
    "in_channels",
    "out_channels",
    "block_out_channels",
    "latent_channels",
    "layers_per_block",
    "norm_num_groups",
    "temporal_compression_ratio",
    "time_padding",
)
"""Fields of `VAEConfig` that must be those of the weights: all shapes, and the treatment of time."""


def train(
    settings: VAETraining,
    out: str | Path,
    *,
    resume: bool = False,
    max_seconds: float | None = None,
) -> Path | None:
    """Train a VAE in the folder `out`; the trained VAE is `out/vae/` in the diffusers layout.

    `out` also contains `settings.yaml`, `metrics.jsonl`, `samples/` and `checkpoints/`. The encoder in `out/vae/` is
    final after `settings.encoder_steps` steps, so latents can be encoded with it from then on. With `torchrun`, the
    clips of a step, and with `settings.context_parallel` their frames, are split over the ranks; `out` must be on a
    shared file system.

    Args:
        resume: continue from the newest checkpoint, or start a new run if there is none.
        max_seconds: time limit, before which the run saves a checkpoint and stops.

    Returns:
        `out`, or None if the run was saved and stopped early (signal, `max_seconds`).

    Raises:
        UserError: the device is not available; a file or folder in the settings cannot be read or does not match;
            `out` contains a run and `resume` is false; the disk is full; too many consecutive steps are skipped.
    """
    settings = with_precision(settings, out, resume=resume)
    sequence = settings.context_parallel or world_size()
    with training_run(settings, out, resume=resume, max_seconds=max_seconds, sequence=sequence) as run:
        device, ranks, mean = run.device, run.ranks, mean_over_ranks(run.ranks)
        vae = build_vae(settings, fresh=Checkpoints(out).latest() is None).to(device)
        perceptual = perceptual_loss(settings, device)
        source, held_out = open_sources(settings)
        optimizer = build_adamw([vae], settings.optim)
        ema = EMA({"vae": vae}, run.config.ema_decay)
        discriminator = DiscriminatorTrainer(settings, device, ranks) if settings.loss.gan > 0 else None
        parts = {"vae": vae, "optimizer": optimizer, "ema": ema}
        parts |= {} if discriminator is None else discriminator.checkpoint_parts()
        run.restore(parts, lambda done: sum(step_batch_size(settings, step) for step in range(done)))
        if perceptual is not None and run.start == 0:
            names = {"lpips": "LPIPS", "st_lpips": "ST-LPIPS"}
            random_features = "a distance in random features; set lpips_trunk and lpips_heads, or st_lpips"
            run.tracker.print(f"perceptual loss: {names.get(perceptual.name, random_features)}")
        forward = torch.compile(reconstruct, dynamic=False) if run.config.compile else reconstruct
        if device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # a run has few input shapes
        for step, full_batch in run.steps(run.prefetch(partial(make_batch, settings, source))):
            if step >= settings.encoder_steps:
                freeze_encoder(vae, ema)
            shard = shard_step(to_device(full_batch, device), ranks, whole_clips=settings.whole_clips)
            batch = shard.batch
            with torch.autocast(device.type, torch.bfloat16, enabled=run.config.precision == "bfloat16"):
                output, mu, logvar = forward(vae, batch.pixels, batch.noise, shard.pixel_cache, shard.latent_cache)
            output, posterior = output.float(), Posterior(mu.float(), logvar.float())
            loss, terms = vae_loss(
                output, batch.pixels, posterior, settings.loss, perceptual, batch.frames, shard.shares
            )
            objective = loss
            if discriminator is not None and discriminator.is_in_loss(step):
                last_layer = vae.decoder.conv_out.weight
                gradient, gan_terms = discriminator.generator_gradient(shard, output, last_layer, loss)
                objective = loss + (gradient * output).sum()  # adds `gradient` to the gradient at the output
                terms |= gan_terms
            objective.backward()
            if ranks is not None:
                average_gradients(vae.parameters(), ranks.world)
            loss, grad_norm, scalars = mean(loss), clip_grad_norm(optimizer, settings.optim), {}
            if run.guard.check(run.done, loss=loss, grad_norm=grad_norm):
                lr = optimizer_step(optimizer, step, run.config.num_steps, settings.optim)
                ema.update(step)
                if discriminator is not None and discriminator.is_trained(step):
                    terms |= discriminator.train_step(shard, step, output)
                scalars = {"loss": loss, "lr": lr, "grad_norm": grad_norm, **{k: mean(v) for k, v in terms.items()}}
            optimizer.zero_grad(set_to_none=True)
            run.tracker.step(run.done, scalars, StepWork(len(full_batch.pixels)))

            with run.tracker.pause():
                with ema.swapped():
                    if run.is_main and run.due(run.config.validate_interval):
                        scores = validate(vae, held_out, run.sample_path, settings.validation.fps)
                        run.tracker.write_validation(run.done, scores)
                        run.tracker.write_samples(run.done, run.sample_path)
                    if run.is_main and run.due(run.config.save_interval):
                        normalized, scaling_factor = (
                            normalize_latents(vae, source) if settings.init_from is None else (vae, None)
                        )
                        save_vae(normalized, run.out, scaling_factor=scaling_factor)
                run.save()
        return run.out
    return None


def build_vae(settings: VAETraining, *, fresh: bool) -> CausalVAE:
    """Build the VAE with the weights of `settings.init_from`, or with random weights if it is not set.

    Args:
        fresh: whether the run is new. A resumed run loads its weights from a checkpoint later.

    Raises:
        UserError: `settings.init_from` cannot be read, or the shapes of its weights differ from `settings.model`.
    """
    if settings.init_from is None or not fresh:
        vae = CausalVAE(settings.model)
        init_weights(vae, torch_generator("weights", settings.run.seed))
        return vae
    source = settings.init_from
    vae = load_vae(find_model(source)[1] if source in shipped_models() else source)
    for name in SHAPE_FIELDS:
        loaded, expected = to_dict(getattr(vae.config, name)), to_dict(getattr(settings.model, name))
        if loaded != expected:
            raise UserError(
                f"the VAE in {settings.init_from} has {name}={loaded}, but model.{name}={expected}: set "
                f"model.{name}={loaded}"
            )
    # A resumed run creates weights in the default layout, and the layout may change rounding.
    return vae.to(memory_format=torch.contiguous_format).requires_grad_(True)  # pyrefly: ignore


def perceptual_loss(settings: VAETraining, device: torch.device) -> PerceptualLoss | None:
    """Build the perceptual loss: (ST-)LPIPS if its files are set, otherwise random features; None if its weight is 0.

    Raises:
        UserError: the LPIPS files cannot be read or do not contain the LPIPS weights.
    """
    if settings.loss.perceptual == 0:
        return None
    if settings.st_lpips is not None:
        return PerceptualLoss("st_lpips", ShiftTolerantLPIPS.load(settings.st_lpips).to(device))
    if settings.lpips_trunk is not None and settings.lpips_heads is not None:
        return PerceptualLoss("lpips", LPIPS.load(settings.lpips_trunk, settings.lpips_heads).to(device))
    return PerceptualLoss("perceptual", RandomFeatures().to(device))


def reconstruct(
    vae: CausalVAE, pixels: Pixels, noise: Latents, pixel_cache: MakeCache = None, latent_cache: MakeCache = None
) -> tuple[Pixels, Latents, Latents]:
    """Encode pixels, sample latents with the given noise, and decode them.

    Args:
        pixel_cache, latent_cache: create the convolution caches of the encoder and the decoder (`vae.causal_conv`).
            If either is None, the VAE splits clips into its default chunks, with gradients across chunks.

    Returns:
        The reconstruction, and the mean and log-variance of the latents.
    """
    if pixel_cache is None or latent_cache is None:
        posterior = vae.encode(pixels)
        return vae.decode(posterior.reparameterize(noise)), posterior.mean, posterior.logvar
    posterior = Posterior.from_moments(vae.encoder(pixels, pixel_cache()))
    return vae.decoder(posterior.reparameterize(noise), latent_cache()), posterior.mean, posterior.logvar


def freeze_encoder(vae: CausalVAE, ema: EMA) -> None:
    """Set the encoder to its EMA weights and freeze it; only the decoder is trained from then on."""
    if not next(vae.encoder.parameters()).requires_grad:
        return
    with torch.no_grad():
        for name, parameter in vae.encoder.named_parameters():
            parameter.copy_(ema.average[f"vae.encoder.{name}"])
    vae.encoder.requires_grad_(False)
