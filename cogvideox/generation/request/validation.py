"""Validate a request against a model: unsupported values are errors, untrained sizes are warnings.

Types and fixed bounds of single values are checked earlier (`cogvideox.options`); this module checks rules that depend
on the model or on several values.
"""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from cogvideox import geometry
from cogvideox.errors import PromptError, UserError
from cogvideox.generation.request.request import Request
from cogvideox.options import check_range
from cogvideox.pretrained.model_spec import ModelSpec

if TYPE_CHECKING:
    from cogvideox.generation.request.inputs import Inputs


def check(request: Request, spec: ModelSpec) -> None:
    """Check that the model can generate what is requested.

    Raises:
        UserError: it cannot; the message states the rule and the nearest valid value of numbers.
        PromptError: the prompt is empty.
    """
    if not request.prompt.strip():
        raise PromptError("the prompt is empty: describe the video in one sentence")
    _check_size(request, spec)
    check_range("num_inference_steps", request.num_inference_steps, 1, spec.schedule.num_train_timesteps)
    if request.position_rule is not None and spec.transformer.position_rule is None:
        raise UserError(f"position_rule applies to rotary positions, which {spec.name} does not have: leave it out")
    _check_task(request, spec)
    _check_windows(request, spec)
    _check_guidance(request)


def check_video(request: Request, num_input_frames: int) -> None:
    """Check that the input video is long enough; for `extend`, that it is shorter than the output.

    Args:
        num_input_frames: number of frames of the input video.

    Raises:
        UserError: it does not; the message names the nearest valid `num_frames`.
    """
    frames = f"{geometry.format_frame_count(num_input_frames)} at {request.fps:g} fps"
    if request.extend and request.num_frames <= num_input_frames:
        raise UserError(
            f"num_frames={request.num_frames} must include the frames of the video to extend, which has {frames}; "
            f"the nearest is {geometry.nearest_frame_counts(num_input_frames + 1)[-1]}"
        )
    if not request.extend and request.num_frames > num_input_frames:
        raise UserError(
            f"the video has {frames}, too few for num_frames={request.num_frames}; "
            f"the nearest is {geometry.round_down_frame_count(num_input_frames)}"
        )


def training_mismatches(request: Request, spec: ModelSpec) -> Iterator[str]:
    """Yield a warning for each size that is valid but outside the model's training range."""
    trained, name = spec.settings.trained, "num_frames" if request.window is None else "window"
    n = request.num_frames if request.window is None else request.window
    low, high = trained.num_frames
    if not low <= n <= high or (n - 1) % trained.frame_step:
        nearest = min(max(int((n - 1) / trained.frame_step + 0.5) * trained.frame_step + 1, low), high)
        rule = f"{trained.frame_step}N+1 from {low} to {high}; the nearest is {nearest}" if low < high else str(low)
        longer = f", and window={high} generates a long video in windows" if name == "num_frames" and n > high else ""
        yield _mismatch(name, n, f"{rule}{longer}")
    for name, size, (low, high) in (
        ("height", request.height, trained.height),
        ("width", request.width, trained.width),
    ):
        if not low <= size <= high:
            yield _mismatch(name, size, f"{low} to {high}" if low < high else str(low))


def silent_changes(request: Request, inputs: "Inputs | None", spec: ModelSpec) -> Iterator[str]:
    """Yield a note for each change of the input, or of the speed, that the user may not expect.

    Args:
        inputs: the inputs at their original size; None if they have not been read.
    """
    for name in ("image", "video"):
        pixels = None if inputs is None else getattr(inputs, name)
        if pixels is not None and pixels.shape[-3:-1] != (request.height, request.width):
            height, width = pixels.shape[-3:-1]
            yield (
                f"the {name} is {width}x{height} and becomes {request.width}x{request.height}; "
                "`height` and `width` set the size"
            )
    path = None if inputs is None or request.video is None or request.extend else request.video.path
    if path is not None:
        from cogvideox.video.io import probe  # importing PyAV is slow, and most requests have no input

        num_frames = round(probe(path).seconds * request.fps)
        if num_frames >= request.num_frames + geometry.FRAME_RATIO:
            yield (
                f"the video has {num_frames} frames at {request.fps:g} fps, and only the first {request.num_frames} "
                "are used; `num_frames` changes this"
            )
    if request.video is None and request.fps > spec.settings.fps:
        yield (
            f"{geometry.format_frame_count(request.num_frames)} at {request.fps:g} fps play for "
            f"{request.num_frames / request.fps:.1f} s, faster than the {spec.settings.fps:g} fps of the model"
        )


def _mismatch(name: str, value: int, rule: str) -> str:
    return f"{name}={value} is outside the range that this model was trained on ({rule}), so quality may suffer"


def _check_size(request: Request, spec: ModelSpec) -> None:
    transformer, ratio = spec.transformer, spec.vae.spatial_compression_ratio
    geometry.check_frame_count(request.num_frames)
    geometry.check_size(request.height, request.width, ratio * transformer.patch_size)
    if not transformer.use_learned_positional_embeddings:
        return
    height, width, longest = (
        transformer.sample_height * ratio,
        transformer.sample_width * ratio,
        transformer.sample_frames,
    )
    reason = f"because {spec.name} has learned positions for"
    if (request.height, request.width) != (height, width):
        raise UserError(
            f"height={request.height} and width={request.width} are not possible, {reason} one size only; "
            f"the nearest: height={height}, width={width}"
        )
    name, num_frames = ("num_frames", request.num_frames) if request.window is None else ("window", request.window)
    if num_frames > longest:
        longer = f", and window={longest} generates a longer video in windows" if name == "num_frames" else ""
        raise UserError(
            f"{name}={num_frames} is not possible, {reason} {longest} frames at most; the nearest is {longest}{longer}"
        )


def _check_guidance(request: Request) -> None:
    start, end = request.guidance_interval
    if not 0 <= start < end <= 1:
        raise UserError(
            f"guidance_interval={start:g} {end:g} must be two increasing fractions of the steps between 0 and 1; "
            "0 1 is all steps"
        )
    if request.smooth_guidance and request.dynamic_guidance:
        raise UserError("smooth_guidance and dynamic_guidance cannot be combined: leave one out")
    if request.null_text is not None and request.negative_prompt and not request.invert:
        raise UserError("null_text has no effect with negative_prompt, which replaces it: leave one out")
    if request.guided:
        return
    used = [
        name
        for name in ("negative_prompt", "dynamic_guidance", "smooth_guidance", "sequential_guidance")
        if getattr(request, name)
    ]
    if (start, end) != (0, 1):
        used.append("guidance_interval")
    if request.null_text is not None and not request.invert:
        used.append("null_text")
    if used:
        raise UserError(f"{used[0]} has no effect with guidance_scale=1, which turns guidance off: leave one out")


def _check_task(request: Request, spec: ModelSpec) -> None:
    is_image_to_video = spec.transformer.is_image_to_video
    if request.image is not None and not is_image_to_video:
        raise UserError(
            f"{spec.name} is a text-to-video model without image input: use an image-to-video model, or continue the "
            "image as a video of one frame (`video` and `extend`)"
        )
    if request.image is None and request.video is None and is_image_to_video:
        raise UserError(f"{spec.name} is an image-to-video model and needs an image: set `image`")
    if request.video is None:
        for name in ("extend", "invert", "strength"):
            if getattr(request, name):
                raise UserError(f"`{name}` needs an input video: set `video`, or leave `{name}` out")
    if request.extend and request.invert:
        raise UserError("`extend` and `invert` cannot be combined: leave one out")
    if request.image is not None and request.extend:
        raise UserError("`image` and `extend` cannot be combined, because `extend` starts from the video's last frame")
    if request.invert and is_image_to_video:
        raise UserError(f"`invert` needs a text-to-video model, and {spec.name} is an image-to-video model")
    if request.strength is not None:
        if request.extend or request.invert:
            raise UserError("`strength` cannot be combined with `extend` or `invert`: leave it out")
        if request.num_denoising_steps < 1:
            raise UserError(
                f"strength={request.strength:g} of {request.num_inference_steps} steps is less than one step; "
                f"the nearest is {math.ceil(1000 / request.num_inference_steps) / 1000:g}"
            )
    if request.fit is not None and request.image is None and request.video is None:
        raise UserError(f"fit={request.fit} needs an input image or video: leave it out")
    if request.image_latent_scale is not None and not is_image_to_video:
        raise UserError(f"image_latent_scale needs an image-to-video model, unlike {spec.name}: leave it out")


def _check_windows(request: Request, spec: ModelSpec) -> None:
    window, overlap = request.window, request.overlap
    if window is None:
        if overlap is not None:
            raise UserError("`overlap` needs windows: set `window` too, or leave `overlap` out")
        return
    if request.invert or (request.task == "video" and spec.transformer.is_image_to_video):
        raise UserError("`window` is not possible for this task, which generates all frames at once: leave it out")
    geometry.check_frame_count(window, name="window")
    shortest = geometry.video_frames((spec.transformer.patch_size_t or 1) + 1)
    if window < shortest:
        raise UserError(f"window={window} is too short to overlap with the next window; the nearest is {shortest}")
    if overlap is None:
        return
    if spec.transformer.is_image_to_video:
        raise UserError(f"`overlap` is always one frame with {spec.name}, an image-to-video model: leave it out")
    if overlap % geometry.FRAME_RATIO or not 0 < overlap < window:
        nearest = min(max(round(overlap / geometry.FRAME_RATIO), 1) * geometry.FRAME_RATIO, window - 1)
        raise UserError(
            f"overlap={overlap} must be a multiple of {geometry.FRAME_RATIO} above 0 and below window={window}; the "
            f"nearest is {nearest}"
        )
