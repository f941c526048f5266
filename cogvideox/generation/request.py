"""What is asked of a model, completed with its defaults and checked, before any weight is loaded. Imports no torch."""

import math
import operator
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar, get_args

from cogvideox import geometry
from cogvideox.bundle.layout import Description
from cogvideox.diffusion.config import Sampler
from cogvideox.errors import UserError

MAX_SEED = 2**63 - 1
MAX_FPS = 240

T = TypeVar("T")


@dataclass(frozen=True)
class Request:
    """One video, with nothing left open. Sizes in pixels, `fps` in frames a second."""

    prompt: str
    negative_prompt: str
    num_frames: int
    height: int
    width: int
    num_inference_steps: int
    guidance_scale: float
    dynamic_guidance: bool
    sampler: Sampler
    seed: int
    fps: float


@dataclass(frozen=True)
class Replay(Request):
    """A request and where it was run: what makes the same frames again. This is the `x.json` of an `x.mp4`."""

    model: str
    device: str
    dtype: str
    cogvideox: str
    torch: str


def complete(
    model: Description,
    prompt: str | None,
    *,
    negative_prompt: str = "",
    num_frames: int | None = None,
    height: int | None = None,
    width: int | None = None,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    dynamic_guidance: bool | None = None,
    sampler: str | None = None,
    seed: int | None = None,
    fps: float | None = None,
) -> Request:
    """A request in which every None is replaced by the model's default; a missing seed is drawn.

    Raises:
        UserError: a value that this model cannot do, with the rule and the nearest legal value.
    """
    defaults = model.settings
    scale = _number("guidance_scale", _or(guidance_scale, defaults.guidance_scale))
    request = Request(
        prompt=_text("prompt", _prompt(model, prompt)),
        negative_prompt=_text("negative_prompt", negative_prompt),
        num_frames=_integer("num_frames", _or(num_frames, defaults.num_frames)),
        height=_integer("height", _or(height, defaults.height)),
        width=_integer("width", _or(width, defaults.width)),
        num_inference_steps=_integer("num_inference_steps", _or(num_inference_steps, defaults.num_inference_steps)),
        guidance_scale=scale,
        # At scale 1 there is no guidance, so a model's habit of changing it over the steps has nothing to change.
        dynamic_guidance=bool(_or(dynamic_guidance, defaults.dynamic_guidance and scale != 1)),
        sampler=_sampler(_or(sampler, defaults.sampler)),
        seed=secrets.randbelow(2**31) if seed is None else _integer("seed", seed),
        fps=_number("fps", _or(fps, defaults.fps)),
    )
    check(request, model)
    return request


def split(request: Request, num_videos: int) -> list[Request]:
    """One request for each of several videos: seeds that follow each other, so that each can be made again alone.

    Raises:
        UserError: there are not so many seeds from this one on.
    """
    _check_range("seed", request.seed, 0, MAX_SEED + 1 - num_videos, f", so that each of {num_videos} videos has one")
    return [replace(request, seed=request.seed + i) for i in range(num_videos)]


def check(request: Request, model: Description) -> None:
    """Whether the model can do what is asked.

    Raises:
        UserError: it cannot.
    """
    if model.transformer.in_channels != model.transformer.out_channels:
        raise UserError(f"{model.name} makes videos from an image, and this version generates from text alone")
    if not request.prompt.strip():
        raise UserError("the prompt is empty: say in a sentence what the video shows")
    geometry.check_frames(request.num_frames)
    geometry.check_size(
        request.height, request.width, model.vae.spatial_compression_ratio * model.transformer.patch_size
    )
    _check_range("num_inference_steps", request.num_inference_steps, 1, model.schedule.num_train_timesteps)
    _check_range("guidance_scale", request.guidance_scale, 1, math.inf, ", and 1 is no guidance")
    _check_range("fps", request.fps, 1, MAX_FPS)
    _check_range("seed", request.seed, 0, MAX_SEED)
    if request.guidance_scale == 1:
        for name in ("negative_prompt", "dynamic_guidance"):
            if getattr(request, name):
                raise UserError(f"{name} has no effect with guidance_scale=1, which is no guidance: leave one out")


def remarks(request: Request, model: Description) -> Iterator[str]:
    """What is legal but unlike anything the model was trained on, a sentence each."""
    trained, n = model.settings.trained, request.num_frames
    low, high = trained.num_frames
    if not low <= n <= high or (n - 1) % trained.frame_step:
        rule = f"{trained.frame_step}N+1 from {low} to {high}" if low < high else str(low)
        nearest = min(max(int((n - 1) / trained.frame_step + 0.5) * trained.frame_step + 1, low), high)
        yield _unlike("num_frames", n, f"{rule}; the nearest is {nearest}")
    for name, size, (low, high) in (
        ("height", request.height, trained.height),
        ("width", request.width, trained.width),
    ):
        if not low <= size <= high:
            yield _unlike(name, size, f"{low} to {high}" if low < high else str(low))


def _unlike(name: str, value: int, rule: str) -> str:
    return f"{name}={value} is unlike the training of this model, so quality may suffer ({rule})"


def _or(value: T | None, default: T) -> T:
    return default if value is None else value


def _integer(name: str, value: Any) -> int:
    """Also of numpy's kinds, which no JSON could hold. What is none is refused here, before minutes of work."""
    try:
        return operator.index(value)
    except TypeError:
        raise UserError(f"{name}={value!r} must be an integer") from None


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise UserError(f"{name}={value!r} must be a number") from None


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise UserError(f"{name} must be one text, got a {type(value).__name__}")
    return value


def _prompt(model: Description, prompt: str | None) -> str:
    if prompt is not None:
        return prompt
    if not model.settings.examples:
        raise UserError("there is no prompt: say in a sentence, in quotes, what the video shows")
    return model.settings.examples[0]


def _sampler(name: str) -> Sampler:
    for known in get_args(Sampler):
        if name == known:
            return known
    raise UserError(f"there is no sampler {name!r}; there are {' and '.join(get_args(Sampler))}")


def _check_range(name: str, value: float | int, low: int, high: float | int, remark: str = "") -> None:
    """NaN is in no range."""
    if low <= value <= high and math.isfinite(value):
        return
    rule = f"{low} or more" if high == math.inf else f"from {low} to {high}"
    nearest = f"; the nearest is {min(max(value, low), high)}" if math.isfinite(value) else ""
    raise UserError(f"{name}={value} must be {rule}{remark}{nearest}")
