"""Training the VAE (paper section 2.1): reconstruction, looks and KL, then a discriminator; images mixed in.

Axes: b clips, c channels, t frames, h w height and width; pixels in [-1, 1].

A step is a function of (seed, step): clips, crops and noise are drawn anew for each, so a resumed run equals an
uninterrupted one to the bit. `folder/vae/` always holds the newest averaged weights in the diffusers layout.
"""

from functools import partial
from pathlib import Path

import torch

from cogvideox.config import to_dict
from cogvideox.dataset.prefetch import to_device
from cogvideox.errors import UserError
from cogvideox.parallel.fsdp import average_gradients
from cogvideox.parallel.mesh import world_size
from cogvideox.pretrained.components import load_vae, save_vae
from cogvideox.pretrained.model_spec import find_model, shipped_models
from cogvideox.training.checkpoint import Checkpoints
from cogvideox.training.config import VAETraining
from cogvideox.training.ema import EMA
from cogvideox.training.metrics.tracker import StepWork
from cogvideox.training.optim.optimizers import build_adamw, clip_grad_norm, optimizer_step
from cogvideox.training.rng import torch_generator
from cogvideox.training.run import training_run
from cogvideox.training.vae.clip_sources import Pixels, sources
from cogvideox.training.vae.context_parallel import MakeCache, mean_over, part_of
from cogvideox.training.vae.data import Latents, draw, num_clips
from cogvideox.training.vae.gan import Adversary
from cogvideox.training.vae.validation import balanced, validate
from cogvideox.vae.losses.perceptual import LPIPS, PerceptualLoss, RandomFeatures
from cogvideox.vae.losses.vae_loss import vae_loss
from cogvideox.vae.model import CausalVAE
from cogvideox.vae.posterior import Posterior
from cogvideox.vae.weights import init_weights

SHAPE = ("in_channels", "out_channels", "block_out_channels", "latent_channels", "layers_per_block", "norm_num_groups")
"""What of a VAE's configuration decides about the shapes of its weights."""


def train(
    settings: VAETraining,
    out: str | Path,
    *,
    resume: bool = False,
    max_seconds: float | None = None,
) -> Path | None:
    """Trains in the folder `out` and returns it; the trained VAE is `out/vae/`, in the diffusers layout.

    `out` also gets `settings.yaml`, `metrics.jsonl`, `samples/` and `checkpoints/`. `resume` continues from the newest
    checkpoint, if there is one. On SIGTERM, Ctrl-C or when `max_seconds` are over, the state is saved and the answer is
    None. After `settings.encoder_steps` the encoder in `out/vae/` is final, so latents may be made with it already.
    Several processes (`ranks`) share each step, in clips and, by `settings.context_parallel`, in time; `out` is then a
    folder that all of them see.

    Raises:
        UserError: no such device; a folder or file that the settings name cannot be read or does not fit; `out` already
            holds a run; the disk refuses; more steps in a row than `run.max_skipped` are not finite.
    """
    sequence = settings.context_parallel or world_size()
    with training_run(settings, out, resume=resume, max_seconds=max_seconds, sequence=sequence) as run:
        device, ranks, mean = run.device, run.ranks, mean_over(run.ranks)
        vae = begin(settings, fresh=Checkpoints(out).latest() is None).to(device)
        perceptual = perceptual_loss(settings, device)
        source, held_out = sources(settings)
        optimizer = build_adamw([vae], settings.optim)
        ema = EMA({"vae": vae}, run.config.ema_decay)
        adversary = Adversary(settings, device, ranks) if settings.loss.gan > 0 else None
        parts = {"vae": vae, "optimizer": optimizer, "ema": ema, **(adversary.parts() if adversary else {})}
        run.restore(parts, lambda done: sum(num_clips(settings, step) for step in range(done)))
        if perceptual is not None and run.start == 0:
            stand_in = "a distance in random features: LPIPS takes lpips_trunk and lpips_heads"
            run.tracker.print(f"the perceptual term is {'LPIPS' if perceptual.name == 'lpips' else stand_in}")
        forward = torch.compile(reconstruct, dynamic=False) if run.config.compile else reconstruct
        if device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # a run has few shapes, each many thousand times
        for step, whole in run.steps(run.prefetch(partial(draw, settings, source))):
            if step >= settings.encoder_steps:
                freeze_encoder(vae, ema)
            part = part_of(to_device(whole, device), ranks, whole_clips=settings.whole_clips)
            batch = part.batch
            with torch.autocast(device.type, torch.bfloat16, enabled=run.config.precision == "bfloat16"):
                made, mu, logvar = forward(vae, batch.pixels, batch.noise, part.pixel_cache, part.latent_cache)
            made, posterior = made.float(), Posterior(mu.float(), logvar.float())
            loss, terms = vae_loss(made, batch.pixels, posterior, settings.loss, perceptual, batch.frames, part.shares)
            objective = loss
            if adversary is not None and step >= settings.disc_start:
                pull, heard = adversary.pull(part, made, vae.decoder.conv_out.weight, loss)
                objective = loss + (pull * made).sum()  # of which the pull is the gradient at the pixels
                terms |= heard
            objective.backward()
            if ranks is not None:
                average_gradients(vae.parameters(), ranks.world)
            loss, grad_norm, scalars = mean(loss), clip_grad_norm(optimizer, settings.optim), {}
            if run.is_finite(loss=loss, grad_norm=grad_norm):
                lr = optimizer_step(optimizer, step, run.config.num_steps, settings.optim)
                ema.update(step)
                if adversary is not None and step >= adversary.start:
                    terms |= adversary.learn(part, step, made)
                scalars = {"loss": loss, "lr": lr, "grad_norm": grad_norm, **{k: mean(v) for k, v in terms.items()}}
            optimizer.zero_grad(set_to_none=True)
            run.log(scalars, StepWork(len(whole.pixels)))

            with run.tracker.pause():
                with ema.swapped():
                    if run.is_main and run.due(run.config.validate_interval):
                        scores = validate(vae, held_out, run.sample_path, settings.validation.fps)
                        run.tracker.write(run.done, scores)
                    if run.is_main and run.due(run.config.save_interval):
                        final, scaling_factor = balanced(vae, source) if settings.start is None else (vae, None)
                        save_vae(final, run.out, scaling_factor=scaling_factor)
                run.save()
        return run.out
    return None


def begin(settings: VAETraining, *, fresh: bool) -> CausalVAE:
    """The VAE that a run begins with: new, or, where the settings name one and the run is `fresh`, a trained one.

    Raises:
        UserError: that one cannot be read, or is of another size than the settings say.
    """
    if settings.start is None or not fresh:
        vae = CausalVAE(settings.model)
        init_weights(vae, torch_generator("weights", settings.run.seed))
        return vae
    vae = load_vae(find_model(settings.start)[1] if settings.start in shipped_models() else settings.start)
    theirs, ours = to_dict(vae.config), to_dict(settings.model)
    differing = [name for name in SHAPE if theirs[name] != ours[name]]
    if differing:
        name = differing[0]
        raise UserError(
            f"the VAE in {settings.start} has {name}={theirs[name]}, and the run has model.{name}={ours[name]}: "
            "they have to be the same"
        )
    return vae.requires_grad_(True)


def perceptual_loss(settings: VAETraining, device: torch.device) -> PerceptualLoss | None:
    """The distance behind the perceptual term: LPIPS where its files are given, else random features; None at weight 0.

    Raises:
        UserError: the files cannot be read, or are of something else.
    """
    if settings.loss.perceptual == 0:
        return None
    if settings.lpips_trunk is not None and settings.lpips_heads is not None:
        return PerceptualLoss("lpips", LPIPS.load(settings.lpips_trunk, settings.lpips_heads).to(device))
    return PerceptualLoss("perceptual", RandomFeatures().to(device))


def reconstruct(
    vae: CausalVAE, pixels: Pixels, noise: Latents, pixel_cache: MakeCache = None, latent_cache: MakeCache = None
) -> tuple[Pixels, Latents, Latents]:
    """Pixels through the VAE, and the mean and log-variance of their latents, of which one draw is decoded.

    Args:
        pixel_cache, latent_cache: what the encoder and the decoder are told of the frames before these
            (`vae.conv_cache`).
            None cuts time into the VAE's own chunks, and the gradient goes from chunk to chunk.
    """
    if pixel_cache is None or latent_cache is None:
        posterior = vae.encode(pixels)
        return vae.decode(posterior.at(noise)), posterior.mean, posterior.logvar
    posterior = Posterior.from_moments(vae.encoder(pixels, pixel_cache()))
    return vae.decoder(posterior.at(noise), latent_cache()), posterior.mean, posterior.logvar


def freeze_encoder(vae: CausalVAE, ema: EMA) -> None:
    """Fix the encoder at its average: from here on the latents are final, and the decoder alone goes on learning."""
    if not next(vae.encoder.parameters()).requires_grad:
        return
    with torch.no_grad():
        for name, parameter in vae.encoder.named_parameters():
            parameter.copy_(ema.average[f"vae.encoder.{name}"])
    vae.encoder.requires_grad_(False)
