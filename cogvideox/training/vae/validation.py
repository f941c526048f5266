"""Validation of the VAE on held-out clips, and normalization of its latents.

Axes: b batch, c channels, t frames, h w height and width; pixels in [-1, 1].
"""

import copy
from pathlib import Path

import torch

from cogvideox.evaluation.reconstruction.metrics import detail, flicker, psnr
from cogvideox.evaluation.reconstruction.structural_similarity import WINDOW, ssim
from cogvideox.training.rng import numpy_generator
from cogvideox.training.sample_sheet import write_sheet
from cogvideox.training.vae.clip_sources import ClipSource
from cogvideox.vae.init_weights import rescale_latents
from cogvideox.vae.model import CausalVAE
from cogvideox.video.transform import to_frames

NUM_VARIANCE_CLIPS = 256
"""Number of clips over which the variance of the latents is measured."""
BATCH_SIZE = 8
"""Batch size of validation."""
NUM_SHEET_CLIPS = 6
"""Number of clips on the contact sheet; at most `BATCH_SIZE`."""


@torch.no_grad()
def validate(vae: CausalVAE, held_out: ClipSource, sheet: Path, fps: float) -> dict[str, float]:
    """Score the reconstructions of all held-out clips, and write a contact sheet of originals and reconstructions.

    Returns:
        PSNR in dB of clips and of single frames; SSIM; detail and flicker of the reconstructions and of the originals.
        Less detail than in the original means blur.
    """
    device, sheet_videos = next(vae.parameters()).device, torch.empty(0)
    scores: dict[str, list[torch.Tensor]] = {}
    for start in range(0, held_out.num_clips, BATCH_SIZE):
        indices = range(start, min(start + BATCH_SIZE, held_out.num_clips))
        rng = numpy_generator("validation", 0, start)
        video = held_out.load_clips(indices, None, rng).to(device)
        reconstruction = vae.decode(vae.encode(video).mean)
        image = video[:, :, :1]
        batch_scores = {
            "psnr": psnr(reconstruction, video),
            "psnr_image": psnr(vae.decode(vae.encode(image).mean), image),
            "detail": detail(reconstruction),
            "detail_original": detail(video),
        }
        if min(video.shape[-2:]) >= WINDOW:
            batch_scores["ssim"] = ssim(reconstruction, video)
        if video.shape[2] > 1:
            batch_scores |= {"flicker": flicker(reconstruction), "flicker_original": flicker(video)}
        for name, values in batch_scores.items():
            scores.setdefault(f"validation/{name}", []).append(values)
        if start == 0:
            sheet_videos = to_frames(torch.cat([video, reconstruction], dim=4)[:NUM_SHEET_CLIPS])
    write_sheet(sheet, sheet_videos, ["original | reconstruction"] * len(sheet_videos), fps)
    return {name: torch.cat(values).mean().item() for name, values in scores.items()}


@torch.no_grad()
def normalize_latents(vae: CausalVAE, source: ClipSource) -> tuple[CausalVAE, float]:
    """Rescale the latent channels to unit variance.

    Returns:
        A copy of the VAE, and the scaling factor of its latents. The factor normalizes the variance within frames. The
        total variance would be dominated by uniform backgrounds, so that noise would hide small objects at nearly every
        timestep.
    """
    device = next(vae.parameters()).device
    indices, rng = range(min(NUM_VARIANCE_CLIPS, source.num_clips)), numpy_generator("validation", 1)
    posteriors = [
        vae.encode(source.load_clips(indices[start : start + 16], None, rng).to(device)) for start in indices[::16]
    ]
    latents = torch.cat([posterior.mean for posterior in posteriors])
    noise_variance = torch.cat([posterior.logvar for posterior in posteriors]).exp().mean(dim=(0, 2, 3, 4))
    factors = (latents.var(dim=(0, 2, 3, 4)) + noise_variance).rsqrt()
    vae = copy.deepcopy(vae)
    rescale_latents(vae, factors)
    latents = latents * factors.view(1, -1, 1, 1, 1)
    deviations = latents - latents.mean(dim=(3, 4), keepdim=True)
    return vae, float(deviations.square().mean() ** -0.5)
