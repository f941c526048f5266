"""Validation of a diffusion run: the loss on held-out clips, and sample videos."""

from dataclasses import asdict, replace

import numpy as np
import torch

from cogvideox.dataset.latents.latent_store import LatentStore
from cogvideox.dataset.latents.toybox_store import ToyboxStore
from cogvideox.diffusion.objective import add_noise, loss_per_sample, output_to_v, v_target
from cogvideox.diffusion.schedule import Schedule
from cogvideox.evaluation.toybox.scorer import score_samples
from cogvideox.generation.pipeline import CogVideoX
from cogvideox.geometry import num_padding_latents
from cogvideox.pretrained.components import load_network
from cogvideox.pretrained.model_folder import LoadedModel, load_tokenizer
from cogvideox.pretrained.model_spec import ModelSpec
from cogvideox.records import Video
from cogvideox.toybox.captions.caption import parse_prompt
from cogvideox.training.diffusion.config import DiffusionTraining
from cogvideox.training.metrics import timestep_bins
from cogvideox.training.rng import torch_generator
from cogvideox.training.run import TrainingRun
from cogvideox.training.sample_sheet import write_sheet
from cogvideox.transformer.config import PositionRule
from cogvideox.transformer.image_conditioning import pad_image_latents
from cogvideox.transformer.model import Transformer
from cogvideox.transformer.temporal_padding import prepend_padding
from cogvideox.vae.latent_scaling import scale_latents

MAX_CLIPS = 64
"""Maximum number of held-out clips in a validation."""


@torch.no_grad()
def validation_loss(
    model: Transformer,
    store: LatentStore | ToyboxStore,
    spec: ModelSpec,
    schedule: Schedule,
    seed: int,
    rule: PositionRule | None = None,
) -> dict[str, float]:
    """Compute the velocity loss on held-out clips, overall and by timestep bin. Every call uses the same noise.

    A predicted noise is converted to a velocity, so that losses of both prediction types can be compared.

    Returns:
        The metrics of `timestep_bins.validation_metrics`.
    """
    num_clips, num_timesteps = min(len(store), MAX_CLIPS), schedule.num_train_timesteps
    device = next(model.parameters()).device
    generator = torch_generator("validation", seed)
    losses, timesteps = [], timestep_bins.spread_timesteps(num_clips, num_timesteps)
    for i in range(num_clips):
        clip = store[i]
        x0 = scale_latents(clip.mean[None].float(), spec.vae.scaling_factor)
        x0 = prepend_padding(x0, num_padding_latents(x0.shape[2], model.config.patch[0]))
        noise = torch.randn(x0.shape, generator=generator).to(device)
        x0, t, text = x0.to(device), timesteps[i : i + 1].to(device), clip.text[None].float().to(device)
        noised = state = add_noise(x0, noise, t, schedule)
        if model.config.is_image_to_video:
            assert clip.image_mean is not None
            image = scale_latents(clip.image_mean[None, :, :1].float(), spec.vae.image_scaling_factor)
            noised = torch.cat((noised, pad_image_latents(image, x0.shape[2]).to(device)), dim=1)
        output = model.forward_packed([noised[0]], text, t, rule=rule, ofs=model.config.ofs)[0][None]
        predicted = output_to_v(output, state, t, schedule)
        losses.append(loss_per_sample(predicted, v_target(x0, noise, t, schedule)).cpu())
    return timestep_bins.validation_metrics(torch.cat(losses), timesteps, num_timesteps)


@torch.no_grad()
def write_samples(
    model: Transformer, spec: ModelSpec, settings: DiffusionTraining, run: TrainingRun
) -> dict[str, float]:
    """Generate videos for `settings.samples.prompts` and write them as a sheet (`sample_sheet`).

    VAE and text encoder are loaded only for this call. Data-parallel ranks generate different videos.

    Returns:
        For a run on toybox clips, the judge's accuracy for each fact in the prompts, by names such as "judged/color";
        otherwise an empty dict.

    Raises:
        UserError: the sheet cannot be written.
    """
    samples, ranks = settings.samples, run.ranks
    text_dtype = torch.bfloat16 if settings.run.precision == "bfloat16" else torch.float32
    loaded = LoadedModel(
        transformer=model,
        vae=load_network(spec.path, spec.vae, device=run.device),
        text_encoder=load_network(spec.path, spec.text_encoder, device=run.device, dtype=text_dtype),
        tokenizer=load_tokenizer(spec),
        schedule=Schedule(**asdict(spec.schedule)),
        settings=spec.settings,
    )
    pipe = CogVideoX(replace(spec, transformer=model.config), loaded, run.device, torch.float32)
    num_prompts = len(samples.prompts)
    rank, num_ranks = (0, 1) if ranks is None else (ranks.data.rank(), ranks.data.size())
    videos: list[Video] = []
    for start in range(0, num_prompts, num_ranks):
        # A rank without a prompt repeats the last one, because all ranks must run the sharded model.
        i = min(start + rank, num_prompts - 1)
        video = pipe.generate(
            samples.prompts[i],
            image=samples.images[i] if samples.images else None,
            seed=settings.run.seed + i,
            num_inference_steps=samples.num_inference_steps,
            num_frames=samples.num_frames,
            height=samples.height,
            width=samples.width,
            position_rule=settings.position_rule,
        )
        assert isinstance(video, Video)
        videos.append(video)
    if ranks is not None:
        by_rank = ranks.all_gather_objects(videos)[:: ranks.sequence.size()]
        videos = [video for round_of_videos in zip(*by_rank) for video in round_of_videos][:num_prompts]
    frames = torch.from_numpy(np.stack([video.frames for video in videos]))
    run.on_rank_zero(lambda: write_sheet(run.sample_path, frames, samples.prompts, fps=videos[0].fps))
    if not settings.toybox:
        return {}
    with torch.autocast(run.device.type, enabled=False):
        scores = score_samples(frames, [parse_prompt(prompt, "full") for prompt in samples.prompts], "full")
    return {f"judged/{name}": score.value for name, score in scores.items()}
