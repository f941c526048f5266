"""Batches for VAE training: crops of clips, whole clips, and single frames.

Axes: b batch, c channels, t frames, h w height and width, n selected frames; pixels in [-1, 1].
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cogvideox.geometry import latent_shape
from cogvideox.training.config import VAETraining, due
from cogvideox.training.rng import clip_indices, numpy_generator, torch_generator
from cogvideox.training.vae.clip_sources import ClipSource, Pixels

Latents = Float[Tensor, "b z lt lh lw"]


class VAEBatch(NamedTuple):
    """Pixels, the noise for sampling latents, and the (clip, frame) indices of the frames in the perceptual loss."""

    pixels: Pixels
    noise: Latents
    frames: Int[Tensor, "n 2"]


def make_batch(settings: VAETraining, source: ClipSource, step: int) -> VAEBatch:
    """Make the batch of step `step` (0-based): single frames every `image_interval` steps, otherwise clips.

    In the first `crop_steps` steps, both are cropped.
    """
    model, pixels = settings.model, make_pixels(settings, source, step)
    b, _, t, h, w = pixels.shape
    size = latent_shape(t, h, w, ratio=model.spatial_compression_ratio, frame_ratio=model.temporal_compression_ratio)
    generator = torch_generator("posterior", settings.run.seed, step)
    noise = torch.randn(b, model.latent_channels, *size, generator=generator)
    num_frames = min(settings.perceptual_frames or t, t)
    permutations = torch.rand(b, t, generator=torch_generator("frames", settings.run.seed, step)).argsort(dim=1)
    frames = permutations[:, :num_frames].flatten()
    return VAEBatch(pixels, noise, torch.stack([torch.arange(b).repeat_interleave(num_frames), frames], dim=1))


def step_batch_size(settings: VAETraining, step: int) -> int:
    """Return the batch size of a step, in clips or in single frames."""
    size = settings.crop_batch_size if step < settings.crop_steps else settings.run.batch_size
    return size * settings.images_per_clip if due(step + 1, settings.image_interval) else size


def make_pixels(settings: VAETraining, source: ClipSource, step: int) -> Pixels:
    """Make the pixels of a batch (see `make_batch`)."""
    run, size = settings.run, step_batch_size(settings, step)
    rng = numpy_generator("order", run.seed, step)
    if due(step + 1, settings.image_interval):
        video = source.load_images(clip_indices(run.seed, step, size, source.num_images), rng)
    else:
        indices = clip_indices(run.seed, step, size, source.num_clips)
        rates = settings.frame_rates
        video = source.load_clips(indices, float(rng.choice(rates)) if rates else None, rng)
    if step >= settings.crop_steps:
        return video
    side, (height, width) = settings.crop_size, video.shape[3:]
    tops = rng.integers(height - side + 1, size=size)
    lefts = rng.integers(width - side + 1, size=size)
    crops = [clip[..., y : y + side, x : x + side] for clip, y, x in zip(video, tops, lefts, strict=True)]
    return torch.stack(crops)
