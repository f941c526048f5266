"""Build complete requests from the caller's values and the model's defaults, and validate them. Imports no torch."""

import secrets
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cogvideox import geometry
from cogvideox.errors import UserError
from cogvideox.generation import long_video
from cogvideox.generation.request.request import Request
from cogvideox.generation.request.validation import check, check_video
from cogvideox.options import check_range, check_values, list_options
from cogvideox.pretrained.model_spec import ModelSpec

if TYPE_CHECKING:
    import numpy as np

    from cogvideox.generation.request.inputs import Inputs

STRENGTH = 0.8


def build_request(
    spec: ModelSpec, prompt: str | None, *, image: Any = None, video: Any = None, **values: Any
) -> "tuple[Request, Inputs]":
    """Read the input image and video, and build the request.

    Args:
        prompt: None uses the model's first example prompt.
        image, video: see `inputs.read_inputs`.
        values: the other fields of `Request`. None means the model's default, or a random value for `seed`.

    Raises:
        TypeError: unknown field.
        UserError: unsupported value (the message names the nearest supported one); unreadable input.
    """
    from cogvideox.generation.request.inputs import read_inputs  # imports numpy, which `--help` does not need

    given = check_values(Request, values)
    inputs = read_inputs(
        image,
        video,
        fps=given.get("fps", spec.settings.fps),
        max_frames=None if given.get("extend") else max(given.get("num_frames", spec.settings.num_frames), 1),
    )
    return complete_request(spec, prompt, inputs=inputs, **given), inputs


def complete_request(spec: ModelSpec, prompt: str | None, *, inputs: "Inputs | None" = None, **values: Any) -> Request:
    """Build the request for inputs that have already been read. Other arguments and errors: see `build_request`."""
    given = check_values(Request, {"prompt": prompt, **values})
    request = Request(
        **{**_defaults(spec, inputs, given), **given},
        image=None if inputs is None else inputs.image_source,
        video=None if inputs is None else inputs.video_source,
    )
    check(request, spec)
    request = _with_windows(request, spec)
    if inputs is not None and inputs.video is not None:
        if "num_frames" not in given:
            request = replace(request, num_frames=_default_frames(request, len(inputs.video)))
        check_video(request, len(inputs.video))
    return request


def reopen_inputs(request: Request) -> "Inputs":
    """Read the input image and video of a request again.

    Raises:
        UserError: an input was given in memory, has changed, or cannot be read.
    """
    from cogvideox.generation.request.inputs import read_inputs

    max_frames = None if request.extend else request.num_frames
    return read_inputs(request.image, request.video, fps=request.fps, max_frames=max_frames)


def split_seeds(request: Request, num_videos: int) -> list[Request]:
    """Return one request per video, with consecutive seeds, so that each video can be reproduced by itself.

    Raises:
        UserError: `num_videos` is below 1, or the last seed would be too large.
    """
    check_range("num_videos", num_videos, 1, float("inf"))
    last = list_options(Request)["seed"].high
    assert last is not None
    check_range("seed", request.seed, 0, last + 1 - num_videos, f"so that each of {num_videos} videos has a seed")
    return [replace(request, seed=request.seed + i) for i in range(num_videos)]


def _defaults(spec: ModelSpec, inputs: "Inputs | None", given: Mapping[str, Any]) -> dict[str, Any]:
    """Return default values for missing fields; they depend on the model and on the given fields."""
    image, video = (None, None) if inputs is None else (inputs.image, inputs.video)
    settings, extend = spec.settings, given.get("extend", False)
    height, width = _default_size(spec, image if image is not None or video is None else video[0], given)
    # At scale 1 guidance is off, so dynamic guidance does not apply.
    guided = given.get("guidance_scale", settings.guidance_scale) != 1
    return {
        "prompt": given["prompt"] if "prompt" in given else _example_prompt(spec),
        "negative_prompt": "",
        "num_frames": settings.num_frames,
        "height": height,
        "width": width,
        "num_inference_steps": settings.num_inference_steps,
        "guidance_scale": settings.guidance_scale,
        "dynamic_guidance": settings.dynamic_guidance and guided and not given.get("smooth_guidance", False),
        "sampler": settings.sampler,
        "seed": secrets.randbelow(2**31),
        "fps": settings.fps,
        "strength": STRENGTH if video is not None and not extend and not given.get("invert", False) else None,
        "window": settings.num_frames if extend else None,
    }


def _example_prompt(spec: ModelSpec) -> str:
    if not spec.settings.examples:
        raise UserError("there is no prompt: describe in a sentence, in quotes, what the video shows")
    return spec.settings.examples[0]


def _default_size(spec: ModelSpec, picture: "np.ndarray | None", given: Mapping[str, Any]) -> tuple[int, int]:
    """Return the model's size, or, for a model trained on many sizes, the size nearest to the input's aspect ratio."""
    defaults, trained = spec.settings, spec.settings.trained
    one_size = trained.height[0] == trained.height[1] or trained.width[0] == trained.width[1]
    one_size = one_size or spec.transformer.use_learned_positional_embeddings
    if picture is None or "height" in given or "width" in given or one_size:
        return defaults.height, defaults.width
    return geometry.size_for_aspect(
        picture.shape[0], picture.shape[1], trained.height, trained.width, spec.size_multiple
    )


def _with_windows(request: Request, spec: ModelSpec) -> Request:
    """Set the default window overlap, or remove the windows if one window covers all frames."""
    if request.window is None or (request.num_frames <= request.window and not request.extend):
        return replace(request, window=None, overlap=None)
    if request.overlap is None and not spec.transformer.takes_image:
        return replace(request, overlap=long_video.default_overlap(request.window))
    return request


def _default_frames(request: Request, num_input_frames: int) -> int:
    """Return the default number of frames for an input of `num_input_frames` frames: the model's default, limited to
    the input's length, or, if the input is extended, its length plus one window."""
    if request.extend and request.window is not None:
        return long_video.default_extension(num_input_frames, request.window, request.overlap)
    return min(request.num_frames, geometry.round_down_frame_count(num_input_frames))
