"""Build requests from the caller's values and the model's defaults, and validate them."""

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

DEFAULT_STRENGTH = 0.8


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

    options = check_values(Request, values)
    extends = options.get("extend") or "extend_by" in options
    inputs = read_inputs(
        image,
        video,
        fps=options.get("fps", spec.settings.fps),
        max_frames=None if extends else max(options.get("num_frames", spec.settings.num_frames), 1),
    )
    return complete_request(spec, prompt, inputs=inputs, **options), inputs


def complete_request(spec: ModelSpec, prompt: str | None, *, inputs: "Inputs | None" = None, **values: Any) -> Request:
    """Build the request for inputs that have already been read. See `build_request` for other arguments and errors."""
    options = check_values(Request, {"prompt": prompt, **values})
    options = _resolve_extension(options, inputs, options.get("fps", spec.settings.fps))
    request = Request(
        **{**_defaults(spec, inputs, options), **options},
        image=None if inputs is None else inputs.image_source,
        video=None if inputs is None else inputs.video_source,
    )
    check(request, spec)
    request = _with_windows(request, spec)
    if inputs is not None and inputs.video is not None:
        if "num_frames" not in options:
            request = replace(request, num_frames=_default_frames(request, len(inputs.video)))
        check_video(request, len(inputs.video))
    return request


def reopen_inputs(request: Request) -> "Inputs":
    """Read the input image and video of a request again.

    Raises:
        UserError: an input was passed in memory, has changed, or cannot be read.
    """
    from cogvideox.generation.request.inputs import read_inputs

    max_frames = None if request.extend else request.num_frames
    return read_inputs(request.image, request.video, fps=request.fps, max_frames=max_frames)


def split_seeds(request: Request, num_videos: int) -> list[Request]:
    """Return one request per video, with consecutive seeds, so that each video can be reproduced separately.

    Raises:
        UserError: `num_videos` is below 1, or the last seed would be too large.
    """
    check_range("num_videos", num_videos, 1, float("inf"))
    last = list_options(Request)["seed"].high
    assert last is not None
    check_range("seed", request.seed, 0, last + 1 - num_videos, f"so that each of {num_videos} videos has a seed")
    return [replace(request, seed=request.seed + i) for i in range(num_videos)]


def _defaults(spec: ModelSpec, inputs: "Inputs | None", options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the default value of each field, given the model and the options that are set."""
    image, video = (None, None) if inputs is None else (inputs.image, inputs.video)
    settings, extend = spec.settings, options.get("extend", False)
    height, width = _default_size(spec, image if image is not None or video is None else video[0], options)
    guided = options.get("guidance_scale", settings.guidance_scale) != 1
    needs_null_text = options.get("invert", False) or (guided and not options.get("negative_prompt"))
    return {
        "prompt": options["prompt"] if "prompt" in options else _example_prompt(spec),
        "negative_prompt": "",
        "num_frames": settings.num_frames,
        "height": height,
        "width": width,
        "num_inference_steps": settings.num_inference_steps,
        "guidance_scale": settings.guidance_scale,
        "dynamic_guidance": settings.dynamic_guidance and guided and not options.get("smooth_guidance", False),
        "null_text": settings.null_text if needs_null_text else None,
        "sampler": settings.sampler,
        "seed": secrets.randbelow(2**31),
        "fps": settings.fps,
        "strength": DEFAULT_STRENGTH if video is not None and not extend and not options.get("invert", False) else None,
        "window": settings.num_frames if extend else None,
    }


def _resolve_extension(options: dict[str, Any], inputs: "Inputs | None", fps: float) -> dict[str, Any]:
    """Replace `extend_by` by `extend` and the number of frames, which includes those of the input video.

    Raises:
        UserError: there is no video, the number of frames is set too, or the sum is not valid.
    """
    if "extend_by" not in options:
        return options
    added = options["extend_by"]
    if inputs is None or inputs.video is None:
        raise UserError("`extend_by` needs an input video: set `video`, or leave `extend_by` out")
    if "num_frames" in options or options.get("extend") is False:
        name = "num_frames" if "num_frames" in options else "extend=False"
        raise UserError(f"`extend_by` and {name} cannot be combined: leave one out")
    given = len(inputs.video)
    nearest = [count - given for count in geometry.nearest_frame_counts(given + added) if count > given]
    if added not in nearest:
        raise UserError(
            f"extend_by={added} is not possible: the video has {geometry.format_frame_count(given)} at {fps:g} fps, "
            f"and {given + added} in total is not 4k+1; the nearest: {' or '.join(map(str, nearest))}"
        )
    return {name: value for name, value in options.items() if name != "extend_by"} | {
        "extend": True,
        "num_frames": given + added,
    }


def _example_prompt(spec: ModelSpec) -> str:
    if not spec.settings.examples:
        raise UserError("missing prompt: describe the video in one sentence, in quotes")
    return spec.settings.examples[0]


def _default_size(spec: ModelSpec, image: "np.ndarray | None", options: Mapping[str, Any]) -> tuple[int, int]:
    """Return the model's size, or for a model with several sizes the one nearest to the aspect ratio of the input."""
    defaults, trained = spec.settings, spec.settings.trained
    has_one_size = trained.height[0] == trained.height[1] or trained.width[0] == trained.width[1]
    has_one_size = has_one_size or spec.transformer.use_learned_positional_embeddings
    if image is None or "height" in options or "width" in options or has_one_size:
        return defaults.height, defaults.width
    return geometry.size_for_aspect(image.shape[0], image.shape[1], trained.height, trained.width, spec.size_multiple)


def _with_windows(request: Request, spec: ModelSpec) -> Request:
    """Set the default overlap of windows, or remove windows if a single one covers all frames."""
    if request.window is None or (request.num_frames <= request.window and not request.extend):
        return replace(request, window=None, overlap=None)
    if request.overlap is None and not spec.transformer.is_image_to_video:
        return replace(request, overlap=long_video.default_overlap(request.window))
    return request


def _default_frames(request: Request, num_input_frames: int) -> int:
    """Return the default number of frames for an input video.

    It is the model's default, but at most the length of the video; to extend a video, its length plus one window.
    """
    if request.extend and request.window is not None:
        return long_video.default_extension(num_input_frames, request.window, request.overlap)
    return min(request.num_frames, geometry.round_down_frame_count(num_input_frames))
