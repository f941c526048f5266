"""What a VAE run sees, step by step: clips of its source, crops of them, single frames between.

Axes: b clips, c channels, t frames, h w height and width, n chosen frames; pixels in [-1, 1].
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cogvideox.geometry import latent_shape
from cogvideox.training.config import VAETraining, due
from cogvideox.training.rng import clip_indices, numpy_generator, torch_generator
from cogvideox.training.vae.clip_sources import Pixels, Source

Latents = Float[Tensor, "b z lt lh lw"]


class Batch(NamedTuple):
    """The pixels of a step, the noise that their latents are drawn with, and which frames of which clips to look at."""

    pixels: Pixels
    noise: Latents
    frames: Int[Tensor, "n 2"]


def draw(settings: VAETraining, source: Source, step: int) -> Batch:
    """What a step trains on: crops of clips at first, then whole clips; single frames every `image_interval` steps."""
    model, pixels = settings.model, draw_pixels(settings, source, step)
    b, _, t, h, w = pixels.shape
    size = latent_shape(t, h, w, ratio=model.spatial_compression_ratio)
    generator = torch_generator("posterior", settings.run.seed, step)
    noise = torch.randn(b, model.latent_channels, *size, generator=generator)
    num_frames = min(settings.perceptual_frames or t, t)
    order = torch.rand(b, t, generator=torch_generator("frames", settings.run.seed, step)).argsort(dim=1)
    frames = order[:, :num_frames].flatten()
    return Batch(pixels, noise, torch.stack([torch.arange(b).repeat_interleave(num_frames), frames], dim=1))


def num_clips(settings: VAETraining, step: int) -> int:
    """How many clips, or single frames, a step trains on."""
    size = settings.crop_batch_size if step < settings.crop_steps else settings.run.batch_size
    return size * settings.images_per_clip if due(step + 1, settings.image_interval) else size


def draw_pixels(settings: VAETraining, source: Source, step: int) -> Pixels:
    """The pixels of `draw`."""
    run, size, cropped = settings.run, num_clips(settings, step), step < settings.crop_steps
    rng = numpy_generator("order", run.seed, step)
    if due(step + 1, settings.image_interval):
        video = source.pictures(clip_indices(run.seed, step, size, source.num_pictures), rng)
    else:
        indices = clip_indices(run.seed, step, size, source.num_clips)
        rates = settings.frame_rates
        video = source.clips(indices, float(rng.choice(rates)) if rates else None, rng)
    if not cropped:
        return video
    side, (height, width) = settings.crop_size, video.shape[3:]
    tops = rng.integers(height - side + 1, size=size)
    lefts = rng.integers(width - side + 1, size=size)
    crops = [clip[..., y : y + side, x : x + side] for clip, y, x in zip(video, tops, lefts, strict=True)]
    return torch.stack(crops)
