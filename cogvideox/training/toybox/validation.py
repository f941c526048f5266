"""Validation of the EMA weights: the loss on held-out clips, and samples scored by the judge.

Clips, noise, timesteps and prompts are the same in every validation.
"""

from pathlib import Path

import numpy as np
import torch

from cogvideox.dataset.latents.toybox_latents import LatentTable
from cogvideox.diffusion.objective import add_noise, loss_per_sample, output_to_v, v_target
from cogvideox.diffusion.schedule import Schedule
from cogvideox.evaluation.toybox.scorer import score_samples
from cogvideox.generation.pipeline import CogVideoX
from cogvideox.records import Video
from cogvideox.training.metrics import timestep_bins
from cogvideox.training.rng import torch_generator
from cogvideox.training.sample_sheet import write_sheet
from cogvideox.training.toybox.data import ToyboxData
from cogvideox.training.toybox.model import TextToVideo
from cogvideox.vae.latent_scaling import scale_latents


@torch.no_grad()
def validation_loss(
    model: TextToVideo,
    data: ToyboxData,
    table: LatentTable,
    schedule: Schedule,
    scaling_factor: float,
    *,
    batch_size: int = 32,
) -> dict[str, float]:
    """Compute the velocity loss on the held-out clips in `table`, overall and by timestep bin.

    Returns:
        The metrics of `timestep_bins.validation_metrics`.
    """
    device, seed = next(model.parameters()).device, data.settings.run.seed
    latents = scale_latents(table.posterior(range(len(table))).mean.to(device), scaling_factor)
    ids = data.tokenize(data.held_out(len(table))[1]).to(device)
    timesteps = timestep_bins.spread_timesteps(len(latents), schedule.num_train_timesteps)
    noise = torch.randn(latents.shape, generator=torch_generator("validation", seed))
    losses = []
    for rows in torch.arange(len(latents)).split(batch_size):
        x0, t, eps = (tensor[rows].to(device) for tensor in (latents, timesteps, noise))
        noised = add_noise(x0, eps, t, schedule)
        predicted = output_to_v(model(noised, ids[rows], t), noised, t, schedule)
        losses.append(loss_per_sample(predicted, v_target(x0, eps, t, schedule)).cpu())
    return timestep_bins.validation_metrics(torch.cat(losses), timesteps, schedule.num_train_timesteps)


def write_samples(pipe: CogVideoX, data: ToyboxData, path: Path) -> dict[str, float]:
    """Generate videos for held-out prompts and write them as a sheet (`sample_sheet`).

    Returns the judge's accuracy for each fact, by names such as "judged/color".

    Raises:
        UserError: the sheet cannot be written.
    """
    settings = data.settings
    scenes, prompts = data.held_out(min(settings.sampling.num_prompts, settings.validation.num_clips))
    videos = []
    for i, prompt in enumerate(prompts):
        video = pipe.generate(prompt, seed=settings.run.seed + i)
        assert isinstance(video, Video)
        videos.append(video.frames)
    frames = torch.from_numpy(np.stack(videos))
    write_sheet(path, frames, prompts, fps=settings.clips.fps)
    return {f"judged/{name}": score.value for name, score in score_samples(frames, scenes).items()}
