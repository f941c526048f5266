"""Scores of a trained text-to-video model: losses on held-out clips, and videos of held-out prompts, judged.

Clips, noise, prompts and seeds of the samplers are the same for all arms and seeds, so that differences are paired.

Axes: `b` clips, `c` channels, `t` frames, `h w` latent positions or pixels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from cogvideox.ablation.arm import Evaluation, Videos
from cogvideox.ablation.scores.degraded_clips import has_overlay
from cogvideox.ablation.scores.metrics import TIMESTEPS
from cogvideox.dataset.config import ToyboxClips
from cogvideox.dataset.latents.toybox_latents import clip_scene, encode_toybox
from cogvideox.diffusion.objective import add_noise, loss_per_sample, output_to_v, v_target
from cogvideox.evaluation.reconstruction.metrics import detail, flicker
from cogvideox.evaluation.toybox.scorer import temporal_consistency
from cogvideox.generation.pipeline import CogVideoX
from cogvideox.geometry import num_padding_latents
from cogvideox.pretrained import model_folder
from cogvideox.records import Video
from cogvideox.toybox.captions.caption import caption_scene, parse_prompt, sample_prompts
from cogvideox.toybox.judge.full import read_scenes
from cogvideox.toybox.judge.judge import judge_clip
from cogvideox.toybox.render.renderer import render_scene
from cogvideox.toybox.scenes.grammar import Scene
from cogvideox.transformer.config import PositionRule
from cogvideox.transformer.temporal_padding import prepend_padding
from cogvideox.vae.latent_scaling import scale_latents
from cogvideox.video.transform import to_model

NUM_SHEET_VIDEOS = 6
"""Videos of each run that are kept for the sample sheet."""
BATCH_SIZE = 16
MIN_DETAIL = 1e-3
"""Lower limit of the detail of a picture without any, below that of noise of a gray level."""
PROMPT_SEED = 0


@dataclass(frozen=True)
class Scores:
    """Values by metric, one per item, and frames of the first videos for the sample sheet.

    Attributes:
        values: by name of the metric (`metrics`); NaN where a metric does not apply to an item.
        frames: [videos t h w 3].
    """

    values: dict[str, list[float]]
    frames: UInt8[np.ndarray, "n t h w 3"]


class ScenePrompt(NamedTuple):
    """A prompt and a scene that it describes."""

    prompt: str
    scene: Scene


def score_model(model: Path, evaluation: Evaluation, cache: Path, rule: PositionRule | None) -> Scores:
    """Score a model folder.

    Args:
        cache: folder of cached latents, shared by runs.
        rule: rotary positions of the run's config.
    """
    values: dict[str, list[float]] = {}
    for name, clips in evaluation.clips.items():
        values |= _named(clip_losses(model, clips, cache, rule), name)
    shown = np.zeros((0, 1, 1, 1, 3), np.uint8)
    for index, (name, videos) in enumerate(evaluation.videos.items()):
        pairs = list(generate(model, evaluation, videos, rule))
        measured = [measure(frames, prompt) for prompt, frames in pairs]
        columns = {metric: [each.get(metric, np.nan) for each in measured] for metric in measured[0]}
        columns["brightness slope"] = brightness_slope(
            *(columns.pop(name) for name in ("brightness", "true brightness"))
        )
        values |= _named(columns, name)
        if index == 0:
            shown = np.stack([frames for _, frames in pairs[:NUM_SHEET_VIDEOS]])
    return Scores(values, shown)


@torch.no_grad()
def clip_losses(
    model: Path, clips: ToyboxClips, cache: Path, rule: PositionRule | None = None
) -> dict[str, list[float]]:
    """Return the velocity loss of each clip at each of `TIMESTEPS`, and their mean."""
    loaded = model_folder.load(model)
    transformer, vae, schedule = loaded.transformer, loaded.vae, loaded.schedule
    table = encode_toybox(vae, clips, cache)
    captions = [
        caption_scene(clip_scene(clips, i), "plain", i, image=clips.num_rendered == 1, complete=True)
        for i in range(len(table))
    ]
    text = loaded.text_encoder(loaded.tokenizer.encode(captions, loaded.settings.text_length))
    latents = scale_latents(table.posterior(range(len(table))).mean, vae.config.scaling_factor)
    latents = prepend_padding(latents, num_padding_latents(latents.shape[2], transformer.config.patch[0]))
    losses: dict[str, list[float]] = {}
    for t in TIMESTEPS:
        values: list[float] = []
        for rows in torch.arange(len(latents)).split(BATCH_SIZE):
            x0, timesteps = latents[rows], torch.full((len(rows),), t)
            noise = torch.stack([_noise(latents.shape[1:], int(row), t) for row in rows])
            noised = add_noise(x0, noise, timesteps, schedule)
            outputs = transformer.forward_packed(
                list(noised), text[rows], timesteps, rule=rule, ofs=transformer.config.ofs
            )
            predicted = output_to_v(torch.stack(list(outputs)), noised, timesteps, schedule)
            values += loss_per_sample(predicted, v_target(x0, noise, timesteps, schedule)).tolist()
        losses[f"loss at {t}"] = values
    return {"loss": np.mean(list(losses.values()), axis=0).tolist(), **losses}


def generate(
    model: Path, evaluation: Evaluation, videos: Videos, rule: PositionRule | None
) -> Iterator[tuple["ScenePrompt", UInt8[np.ndarray, "t h w 3"]]]:
    """Yield each held-out prompt, and the frames of a video of it."""
    pipe = CogVideoX.from_pretrained(str(model))
    for index, (prompt, scene) in enumerate(sample_prompts(evaluation.num_prompts, PROMPT_SEED, style=videos.style)):
        video = pipe.generate(
            prompt,
            seed=index,
            num_frames=videos.num_frames,
            height=videos.height,
            width=videos.width,
            num_inference_steps=evaluation.num_inference_steps,
            guidance_scale=evaluation.guidance_scale,
            position_rule=rule,
        )
        assert isinstance(video, Video)
        yield ScenePrompt(prompt, scene), video.frames


def measure(frames: UInt8[np.ndarray, "t h w 3"], target: ScenePrompt) -> dict[str, float]:
    """Measure one video: facts that the prompt names, consistency, brightness, flicker, sharpness, toys, overlays.

    A frozen video is consistent without effort. Therefore, `consistent motion`
    is the consistency of a video with the right motion, and 0 for other videos. It and `motion` are measured for the
    prompts with a moving toy.
    """
    num_frames, height, width = frames.shape[:3]
    video = torch.from_numpy(frames)
    verdict = judge_clip(video, parse_prompt(target.prompt))
    truth = render_scene(target.scene, num_frames=num_frames, height=height, width=width)
    pixels, true_pixels = to_model(video[None]), to_model(truth[None])
    (reading,) = read_scenes(video[None])
    values = {
        "facts": float(np.mean(list(verdict.values()))),
        "all facts": float(all(verdict.values())),
        "brightness": float(pixels.mean()),
        "true brightness": float(true_pixels.mean()),
        "brightness error": 127.5 * abs(float(pixels.mean() - true_pixels.mean())),
        "sharpness error": float(detail_error(pixels, true_pixels)[0]),
        "toy count error": float(abs(reading.num_toys - len(target.scene.toys))),
        "overlay": float(has_overlay(frames)),
    }
    if num_frames > 1:
        moves = target.scene.toy.motion != "still"
        values["motion"] = float(verdict["motion"]) if moves and "motion" in verdict else np.nan
        values["consistency"] = temporal_consistency(video)
        values["consistent motion"] = values["motion"] * values["consistency"]
        values["flicker"] = float(flicker(pixels)[0])
    return values


def detail_error(video: Float[Tensor, "b c t h w"], truth: Float[Tensor, "b c t h w"]) -> Float[Tensor, " b"]:
    """Return the absolute logarithm of the ratio of both details: blur and noise increase it alike."""
    return (detail(video).clamp_min(MIN_DETAIL) / detail(truth).clamp_min(MIN_DETAIL)).log().abs()


def brightness_slope(brightness: Sequence[float], truth: Sequence[float]) -> list[float]:
    """Return the contribution of each video to the slope of its brightness over the true one.

    Their mean is the slope of the least-squares line: 1 if the range of brightness is that of the prompts' scenes, 0 if
    brightness does not depend on the prompt. Videos that fail at random do not increase it.
    """
    x, y = np.asarray(truth, dtype=np.float64), np.asarray(brightness, dtype=np.float64)
    x = x - x.mean()
    return ((y - y.mean()) * x / max(float(np.mean(x**2)), 1e-12)).tolist()


def _noise(shape: torch.Size, clip: int, t: int) -> Float[Tensor, "c t h w"]:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1000 * clip + t))


def _named(values: dict[str, list[float]], name: str) -> dict[str, list[float]]:
    """Add the name of a set of clips or videos to the metrics."""
    return {f"{metric}, {name}" if name else metric: column for metric, column in values.items()}
