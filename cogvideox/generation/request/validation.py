"""What a model can do, what it was not trained for, and how a refusal is put. Imports no torch."""

import math
from collections.abc import Iterator

from cogvideox import geometry
from cogvideox.errors import UserError
from cogvideox.generation.request.request import Request
from cogvideox.pretrained.model_spec import ModelSpec

MAX_SEED = 2**63 - 1
MAX_FPS = 240


def check(request: Request, model: ModelSpec) -> None:
    """Whether the model can do what is asked.

    Raises:
        UserError: it cannot.
    """
    if not request.prompt.strip():
        raise UserError("the prompt is empty: say in a sentence what the video shows")
    _check_size(request, model)
    check_range("num_inference_steps", request.num_inference_steps, 1, model.schedule.num_train_timesteps)
    check_range("guidance_scale", request.guidance_scale, 1, math.inf, ", and 1 is no guidance")
    check_range("fps", request.fps, 1, MAX_FPS)
    check_range("seed", request.seed, 0, MAX_SEED)
    if request.eta is not None:
        check_range("eta", request.eta, 0, 1, ", where 0 adds no noise")
    if request.cache is not None:
        check_range("cache", request.cache, 0, 1, ", a share of the latents that may be wrong; usual is 0.02")
    if request.position_rule is not None and model.transformer.grid_rule is None:
        raise UserError(f"position_rule is for rotary positions, and {model.name} has others: leave it out")
    _check_guidance(request)
    _check_task(request, model)
    _check_windows(request, model)


def check_video(request: Request, num_given: int) -> None:
    """Whether a clip of so many frames is enough, and not too much.

    Raises:
        UserError: it is not; the sentence has the nearest number of frames.
    """
    wanted = request.num_frames
    if request.extend and wanted <= num_given:
        nearest = geometry.nearest_frames(num_given + 1)[-1]
        raise UserError(
            f"num_frames={wanted} counts the video that is extended too, which has "
            f"{geometry.format_frames(num_given)} at {request.fps:g} a second; the nearest is {nearest}"
        )
    if not request.extend and wanted > num_given:
        raise UserError(
            f"the video has {geometry.format_frames(num_given)} at {request.fps:g} a second, too few for "
            f"num_frames={wanted}; the nearest is {geometry.round_down_frames(num_given)}"
        )


def remarks(request: Request, model: ModelSpec) -> Iterator[str]:
    """What is legal but unlike anything the model was trained on, a sentence each."""
    trained, name = model.settings.trained, "num_frames" if request.window is None else "window"
    n = request.num_frames if request.window is None else request.window
    low, high = trained.num_frames
    if not low <= n <= high or (n - 1) % trained.frame_step:
        nearest = min(max(int((n - 1) / trained.frame_step + 0.5) * trained.frame_step + 1, low), high)
        rule = f"{trained.frame_step}N+1 from {low} to {high}; the nearest is {nearest}" if low < high else str(low)
        longer = f", and window={high} makes a long video of pieces" if name == "num_frames" and n > high else ""
        yield _unlike(name, n, f"{rule}{longer}")
    for name, size, (low, high) in (
        ("height", request.height, trained.height),
        ("width", request.width, trained.width),
    ):
        if not low <= size <= high:
            yield _unlike(name, size, f"{low} to {high}" if low < high else str(low))


def check_range(name: str, value: float | int, low: int, high: float | int, remark: str = "") -> None:
    """Whether a number is in a range, both ends included.

    Raises:
        UserError: it is not; the sentence has the nearest that is.
    """
    if low <= value <= high:
        return
    rule = f"{low} or more" if high == math.inf else f"from {low} to {high}"
    raise UserError(f"{name}={value} must be {rule}{remark}; the nearest is {min(max(value, low), high)}")


def _unlike(name: str, value: int, rule: str) -> str:
    return f"{name}={value} is unlike the training of this model, so quality may suffer ({rule})"


def _check_size(request: Request, model: ModelSpec) -> None:
    network, ratio = model.transformer, model.vae.spatial_compression_ratio
    geometry.check_frames(request.num_frames)
    geometry.check_size(request.height, request.width, ratio * network.patch_size)
    if not network.use_learned_positional_embeddings:
        return
    height, width, longest = network.sample_height * ratio, network.sample_width * ratio, network.sample_frames
    why = f"because the learned positions of {model.name} know no other"
    if (request.height, request.width) != (height, width):
        raise UserError(
            f"height={request.height} and width={request.width} are not possible, {why} size; the nearest: "
            f"height={height}, width={width}"
        )
    name, at_once = ("num_frames", request.num_frames) if request.window is None else ("window", request.window)
    if at_once > longest:
        longer = f", and window={longest} makes a longer video of pieces" if name == "num_frames" else ""
        raise UserError(f"{name}={at_once} is not possible, {why} than {longest}; the nearest is {longest}{longer}")


def _check_guidance(request: Request) -> None:
    start, end = request.guidance_interval
    if not 0 <= start < end <= 1:
        raise UserError(
            f"guidance_interval={start:g} {end:g} must be two fractions of the steps, from 0 to 1 and the first below "
            "the second; 0 1 is all of them"
        )
    if request.smooth_guidance and request.dynamic_guidance:
        raise UserError("smooth_guidance and dynamic_guidance are two ways of changing the scale: leave one out")
    if request.guidance_scale == 1:
        for name in ("negative_prompt", "dynamic_guidance", "smooth_guidance", "sequential_guidance"):
            if getattr(request, name):
                raise UserError(f"{name} has no effect with guidance_scale=1, which is no guidance: leave one out")
        if (start, end) != (0, 1):
            raise UserError("guidance_interval has no effect with guidance_scale=1, which is no guidance")


def _check_task(request: Request, model: ModelSpec) -> None:
    if request.image is not None and not model.transformer.takes_image:
        raise UserError(
            f"{model.name} takes no image, because it makes videos from text: use an image-to-video model, or continue "
            "the picture as a clip of one frame (video and extend)"
        )
    if request.image is None and request.video is None and model.transformer.takes_image:
        raise UserError(f"{model.name} makes videos from an image, and there is none: give one with image")
    if request.video is None:
        for name in ("extend", "invert", "strength"):
            if getattr(request, name):
                raise UserError(f"{name} is for a video, and there is none: give one with video, or leave {name} out")
    if request.extend and request.invert:
        raise UserError("extend and invert are two things to do with a video: leave one out")
    if request.image is not None and request.extend:
        raise UserError("extend begins with the last frame of the video, so there is no place for image: leave one out")
    if request.invert and model.transformer.takes_image:
        raise UserError(f"invert is for models that make videos from text, and {model.name} makes them from an image")
    if request.strength is not None:
        if request.extend or request.invert:
            raise UserError("strength is for a video that is made anew, not with extend or invert: leave it out")
        if request.num_steps < 1:
            raise UserError(
                f"strength={request.strength:g} leaves none of {request.num_inference_steps} steps; the nearest is "
                f"{math.ceil(1000 / request.num_inference_steps) / 1000:g}"
            )
        check_range("strength", request.strength, 0, 1)
    if request.fit is not None and request.image is None and request.video is None:
        raise UserError(f"fit={request.fit} is for an image or a video, and there is none: leave it out")
    if request.image_latent_scale is not None and not model.transformer.takes_image:
        raise UserError(f"image_latent_scale is for models that take an image, unlike {model.name}: leave it out")


def _check_windows(request: Request, model: ModelSpec) -> None:
    window, overlap = request.window, request.overlap
    if window is None:
        if overlap is not None:
            raise UserError("overlap is what windows share: give window too, or leave overlap out")
        return
    if request.invert or (request.task == "video" and model.transformer.takes_image):
        raise UserError("window is not possible here, where all frames are made at once: leave it out")
    geometry.check_frames(window, name="window")
    least = geometry.video_frames((model.transformer.patch_size_t or 1) + 1)
    if window < least:
        raise UserError(f"window={window} is too short to share frames with another; the nearest is {least}")
    if overlap is None:
        return
    if model.transformer.takes_image:
        raise UserError(f"overlap is always one frame with {model.name}, which goes on from an image: leave it out")
    if overlap % geometry.FRAME_RATIO or not 0 < overlap < window:
        legal = min(max(round(overlap / geometry.FRAME_RATIO), 1) * geometry.FRAME_RATIO, window - 1)
        raise UserError(
            f"overlap={overlap} must be a multiple of {geometry.FRAME_RATIO}, above 0 and below window={window}; the "
            f"nearest is {legal}"
        )
