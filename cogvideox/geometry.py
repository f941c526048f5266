"""Size arithmetic: valid frame counts and sizes, latent shapes, VAE chunks, resizing.

The VAE encodes the first frame as one latent frame and each following `FRAME_RATIO` frames as another, so a video has
4k+1 frames. In space, it encodes `PIXEL_RATIO` x `PIXEL_RATIO` pixels as one latent (paper section 2.1), and the
transformer splits latents into patches. All rules for frame counts (`check_frame_count`) and sizes (`check_size`) are
defined here, with their error messages.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from cogvideox.errors import UserError

FRAME_RATIO = 4
PIXEL_RATIO = 8

# Latent frames per decoder chunk with the official weights. Norm statistics of the VAE are those of a chunk, so the
# chunk size is part of the model, and other values reduce the quality.
CHUNK = 2

NormStatistics = Literal["chunk", "clip"]
"""Frames that share norm statistics in the VAE's encoder: of a chunk, as in diffusers, or of the whole clip, as in the
authors' training code."""

FitMode = Literal["cover", "contain", "stretch"]
"""Method to fit a frame to another aspect ratio: center crop, black bars (letterbox), or stretching."""


def latent_frames(num_frames: int, frame_ratio: int = FRAME_RATIO) -> int:
    """Return the number of latent frames of a video: 49 -> 13. `frame_ratio` differs in variants of the VAE only.

    Raises:
        UserError: see `check_frame_count`.
    """
    check_frame_count(num_frames, frame_ratio=frame_ratio)
    return (num_frames - 1) // frame_ratio + 1


def video_frames(num_latents: int, frame_ratio: int = FRAME_RATIO) -> int:
    """Return the number of frames of a video with `num_latents` latent frames: 13 -> 49."""
    return (num_latents - 1) * frame_ratio + 1


def num_padding_latents(num_latents: int, patch_t: int) -> int:
    """Return the number of latent frames to add in front for patches of `patch_t` latent frames: 21, 2 -> 1."""
    return -num_latents % patch_t


def latent_shape(
    num_frames: int,
    height: int,
    width: int,
    *,
    patch_t: int = 1,
    ratio: int = PIXEL_RATIO,
    frame_ratio: int = FRAME_RATIO,
) -> tuple[int, int, int]:
    """Return the (padded) latent frames, height and width of the transformer's input: 49x480x720 -> (13, 60, 90).

    Raises:
        UserError: invalid frame count, height or width.
    """
    check_size(height, width, ratio)
    num_latents = latent_frames(num_frames, frame_ratio)
    return num_latents + num_padding_latents(num_latents, patch_t), height // ratio, width // ratio


def check_frame_count(num_frames: int, name: str = "num_frames", *, frame_ratio: int = FRAME_RATIO) -> None:
    """Check that a frame count is 4k+1. `name` is the option in the error message.

    Raises:
        UserError: the count is invalid; the message gives the nearest valid counts.
    """
    nearest = nearest_frame_counts(num_frames, frame_ratio)
    if num_frames not in nearest:
        raise UserError(
            f"{name}={num_frames} is not allowed: a video must have {frame_ratio}k+1 frames "
            f"(1, {frame_ratio + 1}, {2 * frame_ratio + 1}, ...); the nearest: {_or(nearest)}"
        )


def nearest_frame_counts(num_frames: int, frame_ratio: int = FRAME_RATIO) -> list[int]:
    """Return the nearest valid frame counts below and above a count, or the count itself if it is valid."""
    return [steps * frame_ratio + 1 for steps in _nearest_steps(num_frames - 1, frame_ratio, minimum=0)]


def format_frame_count(num_frames: int) -> str:
    """Format a frame count for messages: "1 frame", "17 frames"."""
    return f"{num_frames} frame{'' if num_frames == 1 else 's'}"


def round_down_frame_count(num_frames: int) -> int:
    """Round down to a valid frame count: 48 -> 45."""
    return nearest_frame_counts(num_frames)[0]


def check_size(height: int, width: int, multiple: int) -> None:
    """Check that height and width, in pixels, are multiples of `multiple`.

    Raises:
        UserError: a size is invalid; the message gives the nearest valid sizes.
    """
    invalid = [
        (name, size)
        for name, size in (("height", height), ("width", width))
        if size not in nearest_sizes(size, multiple)
    ]
    if invalid:
        sizes = " and ".join(f"{name}={size}" for name, size in invalid)
        verb = "is not a multiple" if len(invalid) == 1 else "are not multiples"
        valid = ", ".join(f"{name}={_or(nearest_sizes(size, multiple))}" for name, size in invalid)
        raise UserError(f"{sizes} {verb} of {multiple} pixels, as this model requires; the nearest: {valid}")


def nearest_sizes(size: int, multiple: int) -> list[int]:
    """Return the nearest multiples below and above a size, or the size itself if it is a multiple."""
    return [steps * multiple for steps in _nearest_steps(size, multiple, minimum=1)]


def encode_chunks(
    num_frames: int, norm_statistics: NormStatistics = "chunk", frame_ratio: int = FRAME_RATIO
) -> list[int]:
    """Return the number of frames in each encoder chunk: 49 -> [9, 8, 8, 8, 8, 8], or [49] for "clip".

    The first chunk includes the remainder: 13 -> [13], 21 -> [13, 8].
    """
    return _chunks(num_frames, _chunk_frames(frame_ratio)) if norm_statistics == "chunk" else [num_frames]


def decode_chunks(num_latents: int, frame_ratio: int = FRAME_RATIO) -> list[int]:
    """Return the number of latent frames in each decoder chunk: 13 -> [3, 2, 2, 2, 2, 2].

    With an even number, the first chunk has 2 latent frames, of which the first one is decoded to a single frame. So
    every number of latent frames is decoded to 4k+1 frames (4 -> [2, 2] -> 13 frames).
    """
    return _chunks(num_latents, _chunk_frames(frame_ratio) // frame_ratio)


def _chunk_frames(frame_ratio: int) -> int:
    """Return the frames of a chunk: 8, or two latent frames if these are more."""
    return CHUNK * max(frame_ratio, FRAME_RATIO)


def size_for_aspect(
    height: int, width: int, heights: tuple[int, int], widths: tuple[int, int], multiple: int
) -> tuple[int, int]:
    """Return the valid size closest in aspect ratio to an image of `height` x `width`.

    The short side is the minimum of its range (both ends included) and the long side follows from the aspect ratio:
    1200x900 with ranges 768..1360 -> 1024x768.
    """

    def long_side(short: int, aspect: float, limits: tuple[int, int]) -> int:
        side = round(short * aspect / multiple) * multiple
        return min(max(side, limits[0]), limits[1] // multiple * multiple)

    if height > width:
        return long_side(widths[0], height / width, heights), widths[0]
    return heights[0], long_side(heights[0], width / height, widths)


def size_for_area(height: int, width: int, max_area: int, multiple: int) -> tuple[int, int]:
    """Return the best valid size of at most `max_area` pixels for an image of `height` x `width`.

    The size never exceeds the image's height or width: 480x720 in 65536 pixels, multiple 16 -> 208x304. It maximizes
    the area times the fraction of the image that a center crop (`cover`) keeps.

    Raises:
        UserError: no valid size exists, because the image or the area is too small.
    """
    best, best_score = None, 0.0
    for h in range(multiple, height + 1, multiple):
        widest = min(max_area // h, width) // multiple * multiple
        proportional = nearest_sizes(h * width // height, multiple)
        for w in {widest, *(min(widest, w) for w in proportional)} - {0}:
            kept_fraction = min(h * width, w * height) / max(h * width, w * height)
            if h * w * kept_fraction > best_score:
                best, best_score = (h, w), h * w * kept_fraction
    if best is None:
        raise UserError(
            f"{width}x{height} pixels are too small: no size within them, in multiples of {multiple}, has at most "
            f"{max_area} pixels"
        )
    return best


def time_windows(num_latents: int, window: int, overlap: int) -> list[range]:
    """Return windows of `window` latent frames that cover `num_latents`. Consecutive windows share `overlap` frames.

    The last overlap may be larger: 10, 4, 2 -> [0, 4), [2, 6), [4, 8), [6, 10).
    """
    if num_latents <= window:
        return [range(num_latents)]
    starts = [*range(0, num_latents - window, window - overlap), num_latents - window]
    return [range(start, start + window) for start in starts]


class FitBox(NamedTuple):
    """The size and offset of a resized frame, in pixels.

    The offset is the start of the crop in the resized frame (`cover`), or of the resized frame in the target
    (`contain`).
    """

    height: int
    width: int
    top: int
    left: int


def cover(height: int, width: int, target_height: int, target_width: int) -> FitBox:
    """Return the smallest size of the same aspect ratio that covers the target, and the offset of the center crop."""
    # Compare integer products, so that a side that fits exactly does not lose a pixel to rounding.
    if target_height * width >= target_width * height:
        resized = target_height, max(target_width, round(width * target_height / height))
    else:
        resized = max(target_height, round(height * target_width / width)), target_width
    return FitBox(*resized, (resized[0] - target_height) // 2, (resized[1] - target_width) // 2)


def contain(height: int, width: int, target_height: int, target_width: int) -> FitBox:
    """Return the largest size of the same aspect ratio that fits in the target, and its offset when centered."""
    if target_height * width <= target_width * height:
        resized = target_height, min(target_width, max(1, round(width * target_height / height)))
    else:
        resized = min(target_height, max(1, round(height * target_width / width))), target_width
    return FitBox(*resized, (target_height - resized[0]) // 2, (target_width - resized[1]) // 2)


def _nearest_steps(size: int, step: int, minimum: int) -> Sequence[int]:
    """Return the numbers of steps that give the nearest sizes below and above `size`, at least `minimum`."""
    below = size // step
    if below < minimum:
        return [minimum]
    return [below] if size % step == 0 else [below, below + 1]


def _chunks(total: int, size: int) -> list[int]:
    if total < 1:
        raise ValueError(f"cannot split {total} frames into chunks")
    num_chunks = max(total // size, 1)
    return [total - (num_chunks - 1) * size] + [size] * (num_chunks - 1)


def _or(numbers: Sequence[int]) -> str:
    return " or ".join(map(str, numbers))
