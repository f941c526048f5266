"""All arithmetic of sizes: how frames and pixels become latents, which sizes are legal, where chunks are cut.

The VAE packs `FRAME_RATIO` frames into each latent frame after the first, which holds one frame alone, so a video has
4k+1 frames; in space it packs `PIXEL_RATIO` x `PIXEL_RATIO` pixels (paper section 2.1), and the transformer then takes
patches of latents. Every refusal of a size is worded here. Imports no torch.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from cogvideox.errors import UserError

FRAME_RATIO = 4
PIXEL_RATIO = 8

# How many latent frames the official weights decode in one piece; others are said to look worse. The norms of the VAE
# pool over a piece, so this is part of the model.
CHUNK = 2

FitMode = Literal["cover", "contain", "stretch"]
"""How frames of one shape fill another: cut to its centre, put whole between black bars, or squashed."""


def latent_frames(num_frames: int) -> int:
    """Latent frames of a video: 49 -> 13. Raises `UserError` as `check_frames` does."""
    check_frames(num_frames)
    return (num_frames - 1) // FRAME_RATIO + 1


def video_frames(num_latents: int) -> int:
    """Frames that a number of latent frames decodes to: 13 -> 49."""
    return (num_latents - 1) * FRAME_RATIO + 1


def latent_padding(num_latents: int, patch_t: int) -> int:
    """Latent frames that are missing to whole patches of time: 21 with patches of 2 -> 1. They are put in FRONT."""
    return -num_latents % patch_t


def latent_shape(
    num_frames: int, height: int, width: int, *, patch_t: int = 1, ratio: int = PIXEL_RATIO
) -> tuple[int, int, int]:
    """Latent frames (with their padding), height and width that the transformer works on: 49x480x720 -> (13, 60, 90).

    Raises:
        UserError: a size that does not divide.
    """
    check_size(height, width, ratio)
    num_latents = latent_frames(num_frames)
    return num_latents + latent_padding(num_latents, patch_t), height // ratio, width // ratio


def check_frames(num_frames: int, name: str = "num_frames") -> None:
    """Whether a video of this length can be encoded and decoded; `name` is what the message calls it.

    Raises:
        UserError: the number is not 4k+1; the message has the nearest numbers that are.
    """
    nearest = nearest_frames(num_frames)
    if num_frames not in nearest:
        raise UserError(
            f"{name}={num_frames} is not possible, because a video has {FRAME_RATIO}k+1 frames "
            f"(1, {video_frames(2)}, {video_frames(3)}, ...); the nearest: {_or(nearest)}"
        )


def nearest_frames(num_frames: int) -> list[int]:
    """The legal frame counts next to a number, below and above; the number itself if it is one."""
    return [video_frames(steps + 1) for steps in _around(num_frames - 1, FRAME_RATIO, least=0)]


def format_frames(num_frames: int) -> str:
    """As messages count frames: "1 frame", "17 frames"."""
    return f"{num_frames} frame{'' if num_frames == 1 else 's'}"


def round_down_frames(num_frames: int) -> int:
    """The largest legal frame count that is not above a number: 48 -> 45."""
    return nearest_frames(num_frames)[0]


def check_size(height: int, width: int, multiple: int) -> None:
    """Whether frames of this size, in pixels, divide into whole latents or patches of `multiple` pixels.

    Raises:
        UserError: they do not; the message has the nearest sizes that do.
    """
    illegal = [
        (name, size)
        for name, size in (("height", height), ("width", width))
        if size not in nearest_sizes(size, multiple)
    ]
    if illegal:
        given = " and ".join(f"{name}={size}" for name, size in illegal)
        verb = "is not a multiple" if len(illegal) == 1 else "are not multiples"
        legal = ", ".join(f"{name}={_or(nearest_sizes(size, multiple))}" for name, size in illegal)
        raise UserError(f"{given} {verb} of {multiple} pixels, which this model needs; the nearest: {legal}")


def nearest_sizes(size: int, multiple: int) -> list[int]:
    """The multiples next to a size, below and above; the size itself if it is one."""
    return [steps * multiple for steps in _around(size, multiple, least=1)]


def encode_chunks(num_frames: int) -> list[int]:
    """Frames in each piece that the encoder takes at once: 49 -> [9, 8, 8, 8, 8, 8].

    The first piece holds the remainder: 13 -> [13], 21 -> [13, 8].
    """
    return _chunks(num_frames, CHUNK * FRAME_RATIO)


def decode_chunks(num_latents: int) -> list[int]:
    """Latent frames in each piece that the decoder takes at once: 13 -> [3, 2, 2, 2, 2, 2].

    An even number begins with a piece of 2 whose first latent is still the one frame alone, so that every count decodes
    to 4k+1 frames (4 -> [2, 2] -> 13 frames).
    """
    return _chunks(num_latents, CHUNK)


def size_for_aspect(
    height: int, width: int, heights: tuple[int, int], widths: tuple[int, int], multiple: int
) -> tuple[int, int]:
    """The legal size nearest in shape to a picture of `height` x `width`: its short side is the least that the ranges
    (both ends included) allow, and the long side follows: 1200x900 in 768..1360 both ways -> 1024x768."""

    def long_side(short: int, aspect: float, limits: tuple[int, int]) -> int:
        wanted = round(short * aspect / multiple) * multiple
        return min(max(wanted, limits[0]), limits[1] // multiple * multiple)

    if height > width:
        return long_side(widths[0], height / width, heights), widths[0]
    return heights[0], long_side(heights[0], width / height, widths)


def size_for_area(height: int, width: int, max_area: int, multiple: int) -> tuple[int, int]:
    """The legal size in which most of a picture of `height` x `width` is seen, with at most `max_area` pixels.

    It has about the picture's shape, and is larger than it in neither direction: 480x720 in 65536, by 16 -> 208x304.
    Of all such sizes it is the one whose area, times the share of the picture that `cover` leaves, is the largest.

    Raises:
        UserError: there is none, because the picture or the area is too small.
    """
    best, most = None, 0.0
    for h in range(multiple, height + 1, multiple):
        widest = min(max_area // h, width) // multiple * multiple
        for w in {widest, *(min(widest, same) for same in nearest_sizes(h * width // height, multiple))} - {0}:
            kept = min(h * width, w * height) / max(h * width, w * height)
            if h * w * kept > most:
                best, most = (h, w), h * w * kept
    if best is None:
        raise UserError(
            f"{width}x{height} pixels are too few for a size of at most {max_area} pixels in multiples of {multiple}"
        )
    return best


def time_windows(num_latents: int, window: int, overlap: int) -> list[range]:
    """Stretches of time of `window` latent frames that together cover `num_latents` and share `overlap` with their
    neighbours, the last one perhaps more: 10, 4, 2 -> [0, 4), [2, 6), [4, 8), [6, 10)."""
    if num_latents <= window:
        return [range(num_latents)]
    starts = [*range(0, num_latents - window, window - overlap), num_latents - window]
    return [range(start, start + window) for start in starts]


class FitBox(NamedTuple):
    """How a frame is made to fill another size: resized to `height` x `width`, and then `top` and `left` are the row
    and column where it is cut (`cover`), or where it is put into the larger one (`contain`)."""

    height: int
    width: int
    top: int
    left: int


def cover(height: int, width: int, target_height: int, target_width: int) -> FitBox:
    """The smallest resize of a frame, aspect kept, that covers the target, and the crop of its centre."""
    # Compared as fractions: the side that fits exactly must not lose a pixel to rounding.
    if target_height * width >= target_width * height:
        resized = target_height, max(target_width, round(width * target_height / height))
    else:
        resized = max(target_height, round(height * target_width / width)), target_width
    return FitBox(*resized, (resized[0] - target_height) // 2, (resized[1] - target_width) // 2)


def contain(height: int, width: int, target_height: int, target_width: int) -> FitBox:
    """The largest resize of a frame, aspect kept, that fits into the target, and its place in the middle of it."""
    if target_height * width <= target_width * height:
        resized = target_height, min(target_width, max(1, round(width * target_height / height)))
    else:
        resized = min(target_height, max(1, round(height * target_width / width))), target_width
    return FitBox(*resized, (target_height - resized[0]) // 2, (target_width - resized[1]) // 2)


def _around(size: int, step: int, least: int) -> Sequence[int]:
    """The whole numbers of steps next to a size, at least `least`."""
    below = size // step
    if below < least:
        return [least]
    return [below] if size % step == 0 else [below, below + 1]


def _chunks(total: int, size: int) -> list[int]:
    if total < 1:
        raise ValueError(f"nothing to cut: {total}")
    num_chunks = max(total // size, 1)
    return [total - (num_chunks - 1) * size] + [size] * (num_chunks - 1)


def _or(numbers: Sequence[int]) -> str:
    return " or ".join(map(str, numbers))
