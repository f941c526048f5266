"""Positions of tokens in time, height and width: the three kinds in the CogVideoX family (paper section 2.2).

- 3D RoPE (all 5B models): the channels of each head are split into time (1/4), height (3/8) and width (3/8), in this
  order. In a part of size s, channels 2i and 2i+1 are rotated by coordinate * 10000^(-2i/s).
- Sinusoidal positions (2B): a fixed vector added to each video token, 1/4 for time, 3/8 for width, then 3/8 for height.
- Learned positions (5B-I2V, in addition to RoPE; without RoPE, instead of sinusoidal positions): a parameter of the
  model, for one size only.

Axes: b batch; n tokens of the merged stream, text first, then video with time slowest; d width; k heads of c channels,
which are p pairs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import repeat
from jaxtyping import Float
from torch import Tensor

from cogvideox.errors import UserError
from cogvideox.transformer.config import PositionRule, TransformerConfig

_THETA = 10_000.0


@dataclass(frozen=True)
class Positions:
    """Position tables, computed once for each size and used in all blocks and steps.

    Attributes:
        rope: cosine and sine of the angle of each pair of channels, in float32. Text tokens have angle 0, so that one
            multiplication rotates the whole stream. None without RoPE.
        sincos: vectors added to the stream, zero for text. None with RoPE or learned positions.
    """

    rope: Float[Tensor, "n p 2"] | None
    sincos: Float[Tensor, "n d"] | None


def positions_for(
    config: TransformerConfig,
    num_frames: int,
    height: int,
    width: int,
    *,
    num_text: int | None = None,
    rule: PositionRule | None = None,
    device: torch.device | str | None = None,
) -> Positions:
    """Return the position tables of a clip of `num_frames` latent frames of `height` x `width` latent pixels.

    Args:
        num_text: number of text tokens before the video, by default the config's `max_text_seq_length`.
        rule: how rotary coordinates depend on the size, by default the config's `position_rule`.

    Raises:
        UserError: the size is not a multiple of the patch size or does not fit the learned positions; or `rule` is
            given for a model without RoPE.
    """
    num_text = config.max_text_seq_length if num_text is None else num_text
    grid = token_grid(config, num_frames, height, width)
    if config.use_learned_positional_embeddings:
        check_learned_positions(config, grid, num_text)
    if config.position_rule is None:
        learned = config.use_learned_positional_embeddings
        if rule is not None:
            raise UserError(
                f"position_rule={rule!r} applies to rotary positions, but this model has "
                f"{'learned' if learned else 'sinusoidal'} ones: leave it out"
            )
        return Positions(None, None if learned else _sincos(config, grid, num_text, device))
    return Positions(_rope(config, grid, num_text, rule or config.position_rule, device), None)


def concatenate_positions(clips: Sequence[Positions]) -> Positions:
    """Return the position tables of a packed row, in which each clip has its own positions."""
    ropes = [clip.rope for clip in clips if clip.rope is not None]
    sincos = [clip.sincos for clip in clips if clip.sincos is not None]
    return Positions(torch.cat(ropes) if ropes else None, torch.cat(sincos) if sincos else None)


def token_grid(config: TransformerConfig, num_frames: int, height: int, width: int) -> tuple[int, int, int]:
    """Return the number of tokens of a latent clip in time, height and width.

    Raises:
        UserError: the size is not a multiple of the patch size.
    """
    names, sizes = ("frames", "height", "width"), (num_frames, height, width)
    for name, size, patch in zip(names, sizes, config.patch):
        if size < 1 or size % patch:
            valid = max(patch, round(size / patch) * patch)
            raise UserError(f"latent {name} {size} is not a multiple of the patch size {patch}; the nearest is {valid}")
    t, h, w = (size // patch for size, patch in zip(sizes, config.patch))
    return t, h, w


def check_learned_positions(config: TransformerConfig, grid: tuple[int, int, int], num_text: int) -> None:
    """Check that a clip fits the learned positions: one height, width and text length, and a maximum number of frames.

    Shorter clips use the start of the table, whose slowest axis is time.

    Args:
        grid: `token_grid` of the clip.

    Raises:
        UserError: the clip does not fit; the message gives the valid size in latent frames and latent pixels.
    """
    base_t, base_h, base_w = config.base_grid
    t, h, w = grid
    if (h, w) != (base_h, base_w) or t > base_t:
        pt, ph, pw = config.patch
        raise UserError(
            f"a latent clip of {t * pt} frames, {h * ph}x{w * pw}, does not fit this model's learned positions, which "
            f"are for {base_h * ph}x{base_w * pw} and at most {base_t * pt} latent frames"
        )
    if num_text != config.max_text_seq_length:
        raise UserError(
            f"a text of {num_text} tokens does not fit this model's learned positions, which are for "
            f"{config.max_text_seq_length}"
        )


def rotate(x: Float[Tensor, "b n k c"], rope: Float[Tensor, "n p 2"]) -> Float[Tensor, "b n k c"]:
    """Apply RoPE: rotate each pair of channels (2i, 2i+1) of queries or keys by its token's angle, in float32."""
    pairs = x.float().unflatten(-1, (-1, 2))
    rotation = rope[:, None]
    if torch.compiler.is_compiling() or x.device.type == "mps":
        # The compiler fuses real arithmetic into one pass, but does not support complex numbers; nor do old versions of
        # PyTorch on Apple GPUs.
        (real, imag), (cos, sin) = pairs.unbind(-1), rotation.unbind(-1)
        rotated = torch.stack((real * cos - imag * sin, imag * cos + real * sin), dim=-1)
    else:
        # In eager mode, a complex product is one pass over memory, and real arithmetic would be six.
        rotated = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(rotation))
    return rotated.flatten(-2).to(x.dtype)


def _rope(
    config: TransformerConfig,
    grid: tuple[int, int, int],
    num_text: int,
    rule: PositionRule,
    device: torch.device | str | None,
) -> Float[Tensor, "n p 2"]:
    t, h, w = grid
    # In tokens of the base grid: the clip's first row and column, and the rows and columns that it covers.
    if rule == "resize_crop":
        (top, left), (rows, columns) = _fit(h, w, *config.base_grid[1:])
    else:
        (top, left), (rows, columns) = (0, 0), (h, w)
    options = {"device": device, "dtype": torch.float32}
    coordinates = (
        torch.arange(t, **options),
        torch.linspace(top, (top + rows) * (h - 1) / h, h, **options),
        torch.linspace(left, (left + columns) * (w - 1) / w, w, **options),
    )
    head_dim = config.attention_head_dim
    sizes = (head_dim // 4, head_dim // 8 * 3, head_dim // 8 * 3)
    angles = [
        torch.outer(x, 1.0 / _THETA ** (torch.arange(0, size, 2, **options) / size))
        for x, size in zip(coordinates, sizes)
    ]
    angle = torch.cat(
        (
            repeat(angles[0], "t p -> (t h w) p", h=h, w=w),
            repeat(angles[1], "h p -> (t h w) p", t=t, w=w),
            repeat(angles[2], "w p -> (t h w) p", t=t, h=h),
        ),
        dim=1,
    )
    angle = torch.cat((angle.new_zeros(num_text, head_dim // 2), angle))
    return torch.stack((angle.cos(), angle.sin()), dim=-1)


def _fit(h: int, w: int, base_h: int, base_w: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return corner and size, in integers, of an h x w grid scaled to fit inside the base grid and centered there."""
    if h / w > base_h / base_w:
        rows, columns = base_h, round(base_h / h * w)
    else:
        rows, columns = round(base_w / w * h), base_w
    return (round((base_h - rows) / 2), round((base_w - columns) / 2)), (rows, columns)


def _sincos(
    config: TransformerConfig, grid: tuple[int, int, int], num_text: int, device: torch.device | str | None
) -> Float[Tensor, "n d"]:
    t, h, w = grid
    d = config.width

    def vectors(count: int, scale: float, channels: int) -> Float[Tensor, "count channels"]:
        half = channels // 2
        options = {"device": "cpu", "dtype": torch.float64}  # not every device has float64
        frequency = torch.exp(-math.log(_THETA) / half * torch.arange(half, **options))
        angle = torch.outer(torch.arange(count, **options) / scale, frequency)
        return torch.cat((angle.sin(), angle.cos()), dim=1).float().to(device)

    space = config.spatial_interpolation_scale
    video = torch.cat(
        (
            repeat(vectors(t, config.temporal_interpolation_scale, d // 4), "t c -> (t h w) c", h=h, w=w),
            repeat(vectors(w, space, d // 8 * 3), "w c -> (t h w) c", t=t, h=h),
            repeat(vectors(h, space, d // 8 * 3), "h c -> (t h w) c", t=t, w=w),
        ),
        dim=1,
    )
    return torch.cat((video.new_zeros(num_text, d), video))
