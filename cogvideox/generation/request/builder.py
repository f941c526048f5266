"""From what a caller says to whole requests: completed with the model's defaults and checked, before any weight is
loaded. Imports no torch."""

import math
import operator
import secrets
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from cogvideox import geometry
from cogvideox.diffusion.config import Sampler
from cogvideox.errors import UserError
from cogvideox.generation import long_video
from cogvideox.generation.request.request import ImageLatentScale, Request
from cogvideox.generation.request.validation import MAX_FPS, MAX_SEED, check, check_range, check_video
from cogvideox.pretrained.model_spec import ModelSpec
from cogvideox.transformer.config import GridRule

if TYPE_CHECKING:
    import numpy as np

    from cogvideox.generation.request.inputs import Inputs

STRENGTH = 0.8

T = TypeVar("T")


def prepare(
    model: ModelSpec, prompt: str | None, *, image: Any = None, video: Any = None, **values: Any
) -> "tuple[Request, Inputs]":
    """Reads the picture and the clip that a video is to be made from, and completes the request.

    Args:
        image, video: as `inputs.read_inputs` takes them.
        values: as `complete` takes them.

    Raises:
        UserError: a picture or clip that cannot be read, or a value that this model cannot do.
    """
    from cogvideox.generation.request.inputs import read_inputs  # with numpy, which `--help` has no use for

    fps = _number("fps", _or(values.get("fps"), model.settings.fps))
    check_range("fps", fps, 1, MAX_FPS)
    wanted = _integer("num_frames", _or(values.get("num_frames"), model.settings.num_frames))
    inputs = read_inputs(image, video, fps=fps, max_frames=None if values.get("extend") else max(wanted, 1))
    return complete(model, prompt, inputs=inputs, **values), inputs


def reopen(request: Request) -> "Inputs":
    """Reads again what a complete request is made from.

    Raises:
        UserError: it was in memory, has changed or cannot be read any more.
    """
    from cogvideox.generation.request.inputs import read_inputs

    max_frames = None if request.extend else request.num_frames
    return read_inputs(request.image, request.video, fps=request.fps, max_frames=max_frames)


def complete(model: ModelSpec, prompt: str | None, *, inputs: "Inputs | None" = None, **values: Any) -> Request:
    """A request in which the model's defaults stand for what is None or not given; a missing seed is drawn.

    Args:
        inputs: the picture and the clip that the video is made from, as `prepare` reads them.
        values: the other fields of a `Request`, as `CogVideoX.generate` takes them.

    Raises:
        TypeError: a value of another name.
        UserError: a value that this model cannot do, with the rule and the nearest legal value.
    """
    if unknown := values.keys() - _READ.keys():
        raise TypeError(f"a request has no {', '.join(sorted(unknown))}")
    said = {name: _READ[name](name, value) for name, value in values.items() if value is not None}
    request = Request(
        prompt=_text("prompt", _prompt(model, prompt)),
        image=None if inputs is None else inputs.image_source,
        video=None if inputs is None else inputs.video_source,
        **{**_defaults(model, inputs, said), **said},
    )
    check(request, model)
    request = _in_windows(request, model)
    if inputs is not None and inputs.video is not None:
        if "num_frames" not in said:
            request = replace(request, num_frames=_default_frames(request, len(inputs.video)))
        check_video(request, len(inputs.video))
    return request


def split(request: Request, num_videos: int) -> list[Request]:
    """One request for each of several videos: seeds that follow each other, so that each can be made again alone.

    Raises:
        UserError: there are not so many seeds from this one on.
    """
    check_range("seed", request.seed, 0, MAX_SEED + 1 - num_videos, f", so that each of {num_videos} videos has one")
    return [replace(request, seed=request.seed + i) for i in range(num_videos)]


def _defaults(model: ModelSpec, inputs: "Inputs | None", said: Mapping[str, Any]) -> dict[str, Any]:
    """What holds where nothing is said, given what is."""
    image, video = (None, None) if inputs is None else (inputs.image, inputs.video)
    settings, extend = model.settings, said.get("extend", False)
    height, width = _default_size(model, image if image is not None or video is None else video[0], said)
    # At scale 1 there is no guidance, so a model's habit of changing it over the steps has nothing to change.
    guided = said.get("guidance_scale", settings.guidance_scale) != 1
    return {
        "negative_prompt": "",
        "num_frames": settings.num_frames,
        "height": height,
        "width": width,
        "num_inference_steps": settings.num_inference_steps,
        "guidance_scale": settings.guidance_scale,
        "dynamic_guidance": settings.dynamic_guidance and guided and not said.get("smooth_guidance", False),
        "sampler": settings.sampler,
        "seed": secrets.randbelow(2**31),
        "fps": settings.fps,
        "strength": STRENGTH if video is not None and not extend and not said.get("invert", False) else None,
        "window": settings.num_frames if extend else None,  # what the model makes by itself, were it asked for nothing
    }


def _default_size(model: ModelSpec, picture: "np.ndarray | None", said: Mapping[str, Any]) -> tuple[int, int]:
    """The model's size; of one that was trained with many, the one nearest in shape to what the video is made from."""
    defaults, trained = model.settings, model.settings.trained
    one_size = trained.height[0] == trained.height[1] or trained.width[0] == trained.width[1]
    one_size = one_size or model.transformer.use_learned_positional_embeddings
    if picture is None or "height" in said or "width" in said or one_size:
        return defaults.height, defaults.width
    return geometry.size_for_aspect(
        picture.shape[0], picture.shape[1], trained.height, trained.width, model.size_multiple
    )


def _in_windows(request: Request, model: ModelSpec) -> Request:
    """The request with the window and overlap that hold for it: none for what is made at once."""
    if request.window is None or (request.num_frames <= request.window and not request.extend):
        return replace(request, window=None, overlap=None)
    if request.overlap is None and not model.transformer.takes_image:
        return replace(request, overlap=long_video.default_overlap(request.window))
    return request


def _default_frames(request: Request, num_given: int) -> int:
    """Frames of a video that is made from a clip, where nothing is said: as many as the model makes by itself, or the
    clip has; of a continued one, those of the clip and of one window."""
    if request.extend and request.window is not None:
        return long_video.default_extension(num_given, request.window, request.overlap)
    return min(request.num_frames, geometry.round_down_frames(num_given))


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
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"{name}={value!r} must be a number") from None
    if not math.isfinite(number):
        raise UserError(f"{name}={number} must be a finite number")
    return number


def _flag(name: str, value: Any) -> bool:
    return bool(value)


def _interval(name: str, value: Any) -> tuple[float, float]:
    try:
        start, end = value
    except (TypeError, ValueError):
        raise UserError(f"{name}={value!r} must be two numbers, such as 0.2 0.8") from None
    return _number(name, start), _number(name, end)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise UserError(f"{name} must be one text, got a {type(value).__name__}")
    return value


def _prompt(model: ModelSpec, prompt: str | None) -> str:
    if prompt is not None:
        return prompt
    if not model.settings.examples:
        raise UserError("there is no prompt: say in a sentence, in quotes, what the video shows")
    return model.settings.examples[0]


def _one_of(kind: Any) -> Callable[[str, Any], Any]:
    """Reads one of the values of a `Literal`."""
    known = get_args(kind)

    def read(name: str, value: Any) -> Any:
        if value not in known:
            raise UserError(f"there is no {name} {value!r}; there are {', '.join(known[:-1])} and {known[-1]}")
        return value

    return read


# How what is said beside the prompt, the picture and the clip is read, by its name in a `Request`.
_READ: dict[str, Callable[[str, Any], Any]] = {
    "negative_prompt": _text,
    **dict.fromkeys(("num_frames", "height", "width", "num_inference_steps", "seed", "window", "overlap"), _integer),
    **dict.fromkeys(("guidance_scale", "fps", "eta", "cache", "strength"), _number),
    **dict.fromkeys(("dynamic_guidance", "smooth_guidance", "sequential_guidance", "extend", "invert"), _flag),
    "guidance_interval": _interval,
    "sampler": _one_of(Sampler),
    "position_rule": _one_of(GridRule),
    "fit": _one_of(geometry.FitMode),
    "image_latent_scale": _one_of(ImageLatentScale),
}
