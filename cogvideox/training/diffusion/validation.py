"""The loss of held-out clips and sample videos of a diffusion run."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from cogvideox.dataset.latents.latent_store import LatentStore
from cogvideox.diffusion.objective import add_noise, loss_per_sample, v_target
from cogvideox.diffusion.schedule import Schedule
from cogvideox.generation.pipeline import CogVideoX
from cogvideox.geometry import latent_padding
from cogvideox.parallel.mesh import Ranks
from cogvideox.pretrained.components import load_network
from cogvideox.pretrained.model_folder import LoadedModel, load_tokenizer
from cogvideox.pretrained.model_spec import ModelSpec
from cogvideox.records import Video
from cogvideox.training.diffusion.config import DiffusionTraining
from cogvideox.training.metrics import timestep_bins
from cogvideox.training.rng import torch_generator
from cogvideox.training.sample_sheet import write_sheet
from cogvideox.transformer.config import GridRule
from cogvideox.transformer.image_conditioning import pad_image_latents, repeat_first_frame
from cogvideox.transformer.model import Transformer

NUM_HELD_OUT = 64


@torch.no_grad()
def measure(
    model: Transformer,
    store: LatentStore,
    spec: ModelSpec,
    schedule: Schedule,
    seed: int,
    rule: GridRule | None = None,
) -> dict[str, float]:
    """The velocity loss of held-out clips, over all timesteps and in parts of their range (`bins.validation`); the same
    noise at every call."""
    num, last = min(len(store), NUM_HELD_OUT), schedule.num_train_timesteps
    device = next(model.parameters()).device
    generator = torch_generator("validation", seed)
    errors, timesteps = [], timestep_bins.spread_timesteps(num, last)
    for i in range(num):
        clip = store[i]
        x0 = clip.mean[None].float() * spec.vae.scaling_factor
        x0 = repeat_first_frame(x0, latent_padding(x0.shape[2], model.config.patch[0]))
        noise = torch.randn(x0.shape, generator=generator).to(device)
        x0, t, text = x0.to(device), timesteps[i : i + 1].to(device), clip.text[None].float().to(device)
        noised = add_noise(x0, noise, t, schedule)
        if model.config.takes_image:
            assert clip.image_mean is not None
            image = clip.image_mean[None, :, :1].float() * spec.vae.image_scaling_factor
            noised = torch.cat((noised, pad_image_latents(image, x0.shape[2]).to(device)), dim=1)
        predicted = model.forward_packed([noised[0]], text, t, rule=rule, ofs=model.config.ofs)[0][None]
        errors.append(loss_per_sample(predicted, v_target(x0, noise, t, schedule)).cpu())
    return timestep_bins.validation_metrics(torch.cat(errors), timesteps, last)


@torch.no_grad()
def show(
    model: Transformer, spec: ModelSpec, settings: DiffusionTraining, sheet: Path, ranks: Ranks | None = None
) -> None:
    """Videos of the settings' prompts, as a sheet and a video of them all beside it. VAE and T5 are there for this
    alone.

    Ranks that have clips of their own in training make videos of their own here, at the same time.
    Raises UserError when the disk refuses.
    """
    wanted, device = settings.samples, next(model.parameters()).device
    dtype = torch.bfloat16 if settings.run.precision == "bfloat16" else torch.float32
    bundle = LoadedModel(
        transformer=model,
        vae=load_network(spec.path, spec.vae, device=device),
        text_encoder=load_network(spec.path, spec.text_encoder, device=device, dtype=dtype),
        tokenizer=load_tokenizer(spec),
        schedule=Schedule(**asdict(spec.schedule)),
        settings=spec.settings,
    )
    pipe = CogVideoX(replace(spec, transformer=model.config), bundle, device, torch.float32)
    num, first, step = len(wanted.prompts), 0, 1
    if ranks is not None:
        first, step = ranks.data.rank(), ranks.data.size()
    videos: list[Video] = []
    for turn in range(0, num, step):
        # Who has no prompt left makes the last once more, for each rank has a share of the weights in use.
        i = min(turn + first, num - 1)
        video = pipe.generate(
            wanted.prompts[i],
            image=wanted.images[i] if wanted.images else None,
            seed=settings.run.seed + i,
            num_inference_steps=wanted.num_inference_steps,
            num_frames=wanted.num_frames,
            height=wanted.height,
            width=wanted.width,
            position_rule=settings.position_rule,
        )
        assert isinstance(video, Video)  # one was asked for
        videos.append(video)
    if ranks is not None:
        of_groups = ranks.all_gather_objects(videos)[:: ranks.sequence.size()]
        videos = [video for turn in zip(*of_groups) for video in turn][:num]
    frames = torch.from_numpy(np.stack([video.frames for video in videos]))
    on_first_rank(ranks, lambda: write_sheet(sheet, frames, wanted.prompts, fps=videos[0].fps))


def on_first_rank(ranks: Ranks | None, write: Callable[[], None]) -> None:
    return write() if ranks is None else ranks.run_on_rank_zero(write)
