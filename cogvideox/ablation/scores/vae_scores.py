"""Scores of a trained VAE: reconstructions of held-out clips.

Axes: `b` clips, `t` frames, `h w` pixels.
"""

from pathlib import Path

import numpy as np
import torch

from cogvideox.ablation.arm import Evaluation
from cogvideox.ablation.scores.diffusion_scores import NUM_SHEET_VIDEOS, Scores, detail_error
from cogvideox.dataset.latents.toybox_latents import render_clips
from cogvideox.evaluation.reconstruction.metrics import flicker, psnr
from cogvideox.evaluation.reconstruction.structural_similarity import WINDOW, ssim
from cogvideox.pretrained.components import load_vae
from cogvideox.video.transform import to_frames

BATCH_SIZE = 8


@torch.no_grad()
def score_vae(folder: Path, evaluation: Evaluation) -> Scores:
    """Score the VAE in `folder/vae`: PSNR, SSIM, and errors of flicker and detail, per clip."""
    vae = load_vae(folder)
    values: dict[str, list[float]] = {}
    shown = np.zeros((0, 1, 1, 1, 3), np.uint8)
    for index, (name, clips) in enumerate(evaluation.clips.items()):
        for start in range(0, clips.num_clips, BATCH_SIZE):
            video = render_clips(clips, range(start, min(start + BATCH_SIZE, clips.num_clips)))
            output = vae.decode(vae.encode(video).mean)
            columns = {"psnr": psnr(output, video), "detail error": detail_error(output, video)}
            if min(video.shape[-2:]) >= WINDOW:
                columns["ssim"] = ssim(output, video)
            if video.shape[2] > 1:
                columns["flicker error"] = (flicker(output) - flicker(video)).abs()
            for metric, column in columns.items():
                values.setdefault(f"{metric}, {name}" if name else metric, []).extend(column.tolist())
            if start == index == 0:
                shown = to_frames(output[:NUM_SHEET_VIDEOS]).numpy()
    return Scores(values, shown)
