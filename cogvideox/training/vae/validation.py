"""Validation of the VAE on held-out clips, and normalization of its latents.

Axes: b batch, c channels, t frames, h w height and width; pixels in [-1, 1].
"""

import copy
from pathlib import Path

import torch

from cogvideox.training.rng import numpy_generator
from cogvideox.training.sample_sheet import write_sheet
from cogvideox.training.vae.clip_sources import ClipSource
from cogvideox.vae.init_weights import rescale_latents
from cogvideox.vae.metrics import detail, flicker, psnr
from cogvideox.vae.model import CausalVAE
from cogvideox.video.transform import to_frames

NUM_MEASURED = 256
"""Clips over which the variance of the latents is measured."""
NUM_SHOWN = 6
"""Pairs on the sheet; at most a batch of validation clips (8)."""


@torch.no_grad()
def validate(vae: CausalVAE, held_out: ClipSource, sheet: Path, fps: float) -> dict[str, float]:
    """Score the reconstructions of all held-out clips, and write a sheet of originals and reconstructions.

    Returns:
        PSNR in dB of clips and of single frames; detail and flicker of the reconstructions and of the originals. Less
        detail than in the original is blur.
    """
    device, shown = next(vae.parameters()).device, torch.empty(0)
    scores: dict[str, list[torch.Tensor]] = {}
    for start in range(0, held_out.num_clips, 8):
        indices, rng = range(start, min(start + 8, held_out.num_clips)), numpy_generator("validation", 0, start)
        video = held_out.load_clips(indices, None, rng).to(device)
        reconstruction = vae.decode(vae.encode(video).mean)
        image = video[:, :, :1]
        found = {
            "psnr": psnr(reconstruction, video),
            "psnr_image": psnr(vae.decode(vae.encode(image).mean), image),
            "detail": detail(reconstruction),
            "detail_original": detail(video),
        }
        if video.shape[2] > 1:
            found |= {"flicker": flicker(reconstruction), "flicker_original": flicker(video)}
        for name, values in found.items():
            scores.setdefault(f"validation/{name}", []).append(values)
        if start == 0:
            shown = to_frames(torch.cat([video, reconstruction], dim=4)[:NUM_SHOWN])
    write_sheet(sheet, shown, ["original | reconstruction"] * len(shown), fps)
    return {name: torch.cat(values).mean().item() for name, values in scores.items()}


@torch.no_grad()
def normalize_latents(vae: CausalVAE, source: ClipSource) -> tuple[CausalVAE, float]:
    """Rescale the latent channels to unit variance.

    Returns:
        A copy of the VAE, and the scaling factor of its latents. The factor gives unit variance to the deviations from
        each frame's mean. With the total variance, the flat backgrounds would dominate, and small objects would be
        below the noise at nearly every timestep.
    """
    device = next(vae.parameters()).device
    indices, rng = range(min(NUM_MEASURED, source.num_clips)), numpy_generator("validation", 1)
    posteriors = [
        vae.encode(source.load_clips(indices[start : start + 16], None, rng).to(device)) for start in indices[::16]
    ]
    latents = torch.cat([posterior.mean for posterior in posteriors])
    noise = torch.cat([posterior.logvar for posterior in posteriors]).exp().mean(dim=(0, 2, 3, 4))
    factors = (latents.var(dim=(0, 2, 3, 4)) + noise).rsqrt()
    vae = copy.deepcopy(vae)
    rescale_latents(vae, factors)
    latents = latents * factors.view(1, -1, 1, 1, 1)
    inside = latents - latents.mean(dim=(3, 4), keepdim=True)
    return vae, float(inside.square().mean() ** -0.5)
