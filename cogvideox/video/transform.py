"""Resizing, and conversion between frames (uint8 [... t h w 3]) and model videos (float [... 3 t h w] in [-1, 1])."""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from cogvideox import geometry
from cogvideox.errors import UserError

_MAX_PIXELS = 2**24  # number of pixels that are converted to float at once


def to_model(frames: UInt8[Tensor, "*b t h w 3"]) -> Float[Tensor, "*b 3 t h w"]:
    """Convert frames to a model video: 0 becomes -1, 255 becomes 1."""
    return rearrange(frames, "... t h w c -> ... c t h w").float() / 127.5 - 1


def to_unit(video: Float[Tensor, "*b 3 t h w"]) -> Float[Tensor, "*b t h w 3"]:
    """Convert a model video to float frames clipped to 0..1."""
    return (rearrange(video, "... c t h w -> ... t h w c").float() / 2 + 0.5).clamp(0, 1)


def to_frames(video: Float[Tensor, "*b 3 t h w"]) -> UInt8[Tensor, "*b t h w 3"]:
    """Convert a model video to uint8 frames: the inverse of `to_model`."""
    return (to_unit(video) * 255).round().to(torch.uint8)


def resize_crop(
    frames: UInt8[Tensor, "t old_h old_w 3"], height: int, width: int
) -> UInt8[Tensor, "t {height} {width} 3"]:
    """Resize frames to cover a size, keeping the aspect ratio, and center-crop them."""
    box = geometry.cover(frames.shape[1], frames.shape[2], height, width)
    resized = _resize(frames, box.height, box.width)
    return resized[:, box.top : box.top + height, box.left : box.left + width]


def resize_pad(
    frames: UInt8[Tensor, "t old_h old_w 3"], height: int, width: int
) -> UInt8[Tensor, "t {height} {width} 3"]:
    """Resize frames to fit inside a size, keeping the aspect ratio, and pad them with black."""
    box = geometry.contain(frames.shape[1], frames.shape[2], height, width)
    padded = frames.new_zeros(len(frames), height, width, 3)
    resized = _resize(frames, box.height, box.width)
    padded[:, box.top : box.top + box.height, box.left : box.left + box.width] = resized
    return padded


def resize(
    frames: UInt8[Tensor, "t old_h old_w 3"], height: int, width: int, fit: geometry.FitMode = "cover"
) -> UInt8[Tensor, "t {height} {width} 3"]:
    """Resize frames and crop ("cover"), pad ("contain") or stretch them to a size."""
    if fit == "cover":
        return resize_crop(frames, height, width)
    return resize_pad(frames, height, width) if fit == "contain" else _resize(frames, height, width)


def _resize(frames: UInt8[Tensor, "t old_h old_w 3"], height: int, width: int) -> UInt8[Tensor, "t {height} {width} 3"]:
    if (height, width) == frames.shape[1:3]:
        return frames
    old_height, old_width = frames.shape[1:3]
    if height * width > max(_MAX_PIXELS, 16 * old_height * old_width):
        raise UserError(
            f"frames of {old_width}x{old_height} pixels cannot be enlarged to {width}x{height}: choose a size with "
            "a more similar aspect ratio"
        )
    num_frames = max(1, _MAX_PIXELS // max(height * width, old_height * old_width))
    return torch.cat([_interpolate(batch, height, width) for batch in frames.split(num_frames)])


def _interpolate(
    frames: UInt8[Tensor, "t old_h old_w 3"], height: int, width: int
) -> UInt8[Tensor, "t {height} {width} 3"]:
    pixels = rearrange(frames, "t h w c -> t c h w").float()
    pixels = F.interpolate(pixels, (height, width), mode="bicubic", antialias=True)
    return rearrange(pixels.round().clamp(0, 255).to(torch.uint8), "t c h w -> t h w c")
