"""Training the VAE (paper section 2.1): reconstruction and KL, on crops first, on whole clips after, images mixed in.

Axes: b clips, c channels, t frames, h w height and width; pixels in [-1, 1].

A step is a function of (seed, step): clips, crops and noise are drawn anew for each, so a resumed run equals an
uninterrupted one to the bit. `folder/vae/` always holds the newest averaged weights in the diffusers layout.
"""

import copy
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from cogvideox.bundle.vae import save_vae
from cogvideox.dataset.ahead import ahead, to_device
from cogvideox.dataset.toybox import render
from cogvideox.generation.device import choose_device
from cogvideox.geometry import latent_shape
from cogvideox.training.checkpoint import open_run
from cogvideox.training.draws import clip_indices, numpy_generator, torch_generator
from cogvideox.training.ema import EMA
from cogvideox.training.interrupt import Interruption
from cogvideox.training.optim import adamw, update
from cogvideox.training.settings import VAETraining, due
from cogvideox.training.track import Tracker
from cogvideox.training.validate import write_sheet
from cogvideox.vae.loss import psnr, vae_loss
from cogvideox.vae.model import CausalVAE
from cogvideox.vae.posterior import Posterior
from cogvideox.vae.weights import init_weights, rescale_latents
from cogvideox.video.transform import to_frames

Pixels = Float[Tensor, "b 3 t h w"]
Latents = Float[Tensor, "b z lt lh lw"]

NUM_MEASURED = 256
"""Clips over which the spread of the latents is measured."""


def train(
    settings: VAETraining, out: str | Path, *, resume: bool = False, max_seconds: float | None = None
) -> Path | None:
    """Trains in the folder `out` and returns it; the trained VAE is `out/vae/`, in the diffusers layout.

    `out` also gets `settings.yaml`, `metrics.jsonl`, `samples/` and `checkpoints/`. `resume` continues from the newest
    checkpoint, if there is one. On SIGTERM, Ctrl-C or when `max_seconds` are over, the state is saved and the answer is
    None. After `settings.encoder_steps` the encoder in `out/vae/` is final, so latents may be made with it already.

    Raises:
        UserError: no such device; `out` already holds a run; the disk refuses; the loss is not finite.
    """
    out, run = Path(out), settings.run
    with Interruption(max_seconds) as interruption:
        device = choose_device(run.device)
        vae = CausalVAE(settings.model)
        init_weights(vae, torch_generator("weights", run.seed))
        vae.to(device)
        optimizer = adamw([vae], settings.optim)
        ema = EMA({"vae": vae}, run.ema_decay)
        parts = {"vae": vae, "optimizer": optimizer, "ema": ema}
        checkpoints, start = open_run(out, settings, parts, resume=resume, keep=run.keep_checkpoints)
        forward = torch.compile(reconstruct, dynamic=False) if run.compile else reconstruct
        if device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # a run has few shapes, each many thousand times
        tracker = Tracker(out, num_steps=run.num_steps, start=start, interval=run.log_interval)
        finished = start >= run.num_steps
        steps = range(start, run.num_steps)
        with closing(ahead(partial(draw, settings), steps, workers=run.workers, pin=device.type == "cuda")) as batches:
            for step, batch in zip(steps, batches):
                if step >= settings.encoder_steps:
                    freeze_encoder(vae, ema)
                batch = to_device(batch, device)
                with torch.autocast(device.type, torch.bfloat16, enabled=run.precision == "bfloat16"):
                    reconstruction, mean, logvar = forward(vae, *batch)
                posterior = Posterior(mean.float(), logvar.float())
                loss, terms = vae_loss(reconstruction.float(), batch.pixels, posterior, settings.loss)
                loss.backward()
                lr, grad_norm = update(optimizer, step, run.num_steps, settings.optim)
                ema.update(step)
                done = step + 1
                scalars = {"loss": loss, "lr": lr, "grad_norm": grad_norm, **terms}
                tracker.step(done, scalars, num_samples=len(batch.pixels))

                finished = done == run.num_steps
                saving = finished or due(done, run.save_interval)
                with tracker.pause():
                    with ema.swapped():
                        if finished or due(done, run.validate_interval):
                            tracker.write(done, validate(vae, settings, out / "samples" / f"step-{done:08d}.png"))
                        if saving:
                            final, scaling_factor = balanced(vae, settings)
                            save_vae(final, out, scaling_factor=scaling_factor)
                    stop = None if finished else interruption.reason()
                    if saving or stop:
                        checkpoints.save(done, parts)
                if stop:
                    tracker.note(f"stopped after step {done} of {run.num_steps}: {stop}")
                    break
                if run.compile and step == start:
                    interruption.restart()  # no later step takes as long as the one that compiles
        tracker.close()
    return out if finished else None


def reconstruct(vae: CausalVAE, pixels: Pixels, noise: Latents) -> tuple[Pixels, Latents, Latents]:
    """Pixels through the VAE, and the mean and log-variance of their latents, of which one draw is decoded."""
    posterior = vae.encode(pixels)
    return vae.decode(posterior.at(noise)), posterior.mean, posterior.logvar


def freeze_encoder(vae: CausalVAE, ema: EMA) -> None:
    """Fix the encoder at its average: from here on the latents are final, and the decoder alone goes on learning."""
    if not next(vae.encoder.parameters()).requires_grad:
        return
    with torch.no_grad():
        for name, parameter in vae.encoder.named_parameters():
            parameter.copy_(ema.average[f"vae.encoder.{name}"])
    vae.encoder.requires_grad_(False)


class Batch(NamedTuple):
    """The pixels of a step, and the noise that their latents are drawn with."""

    pixels: Pixels
    noise: Latents


def draw(settings: VAETraining, step: int) -> Batch:
    """What a step trains on: crops of clips at first, then whole clips; single frames every `image_interval` steps."""
    model, pixels = settings.model, draw_pixels(settings, step)
    size = latent_shape(*pixels.shape[2:], ratio=model.spatial_compression_ratio)
    generator = torch_generator("posterior", settings.run.seed, step)
    return Batch(pixels, torch.randn(len(pixels), model.latent_channels, *size, generator=generator))


def draw_pixels(settings: VAETraining, step: int) -> Pixels:
    """The pixels of `draw`."""
    run, clips = settings.run, settings.clips
    cropped = step < settings.crop_steps
    image = due(step + 1, settings.image_interval)
    size = settings.crop_batch_size if cropped else run.batch_size
    if image:
        size *= settings.images_per_clip
    video = render(clips, clip_indices(run.seed, step, size, clips.num_clips))
    rng = numpy_generator("order", run.seed, step)
    if image:
        frames = torch.from_numpy(rng.integers(clips.num_frames, size=size))
        video = rearrange(video, "b c t h w -> b t c h w")[torch.arange(size), frames].unsqueeze(2)
    if not cropped:
        return video
    side = settings.crop_size
    tops = rng.integers(clips.height - side + 1, size=size)
    lefts = rng.integers(clips.width - side + 1, size=size)
    crops = [clip[..., y : y + side, x : x + side] for clip, y, x in zip(video, tops, lefts, strict=True)]
    return torch.stack(crops)


@torch.no_grad()
def validate(vae: CausalVAE, settings: VAETraining, sheet: Path) -> dict[str, float]:
    """PSNR in dB of the validation clips, whole and as single frames, and a sheet of originals and reconstructions."""
    clips, device = settings.validation, next(vae.parameters()).device
    scores, image_scores, pairs = [], [], []
    for start in range(0, clips.num_clips, 8):
        video = render(clips, range(start, min(start + 8, clips.num_clips))).to(device)
        reconstruction = vae.decode(vae.encode(video).mean)
        image = video[:, :, :1]
        scores.append(psnr(reconstruction, video))
        image_scores.append(psnr(vae.decode(vae.encode(image).mean), image))
        pairs.append(torch.cat([video, reconstruction], dim=4))
    shown = to_frames(torch.cat(pairs)[:6])
    write_sheet(sheet, shown, ["original | reconstruction"] * len(shown))
    return {
        "validation/psnr": torch.cat(scores).mean().item(),
        "validation/psnr_image": torch.cat(image_scores).mean().item(),
    }


@torch.no_grad()
def balanced(vae: CausalVAE, settings: VAETraining) -> tuple[CausalVAE, float]:
    """A copy of the VAE whose latent channels have unit variance, and the scaling factor for its latents.

    The factor brings what varies inside a frame to the size of the noise. Taken over everything, it would be set by the
    flat floors, and a toy, which is a few cells, would be under the noise at nearly every timestep.
    """
    clips, device = settings.clips, next(vae.parameters()).device
    indices = range(min(NUM_MEASURED, clips.num_clips))
    parts = [render(clips, indices[start : start + 16]).to(device) for start in indices[::16]]
    posteriors = [vae.encode(part) for part in parts]
    latents = torch.cat([posterior.mean for posterior in posteriors])
    noise = torch.cat([posterior.logvar for posterior in posteriors]).exp().mean(dim=(0, 2, 3, 4))
    factors = (latents.var(dim=(0, 2, 3, 4)) + noise).rsqrt()
    vae = copy.deepcopy(vae)
    rescale_latents(vae, factors)
    latents = latents * factors.view(1, -1, 1, 1, 1)
    inside = latents - latents.mean(dim=(3, 4), keepdim=True)
    return vae, float(inside.square().mean() ** -0.5)
