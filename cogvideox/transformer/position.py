"""Where a token lies in time, height and width, in the three ways of the CogVideoX family (paper section 2.2).

- 3D rotary positions (every 5B): each head's channels are split among time (1/4), height (3/8) and width (3/8), in this
  order; inside a share, channels 2i and 2i+1 turn by the angle coordinate * 10000^(-2i/share).
- Sinusoidal positions (2B): a fixed vector added to each video token, 1/4 of it for time, 3/8 for width, then height.
- Learned positions (5B-I2V, beside the rotary ones): a weight of the model, made for one size only.

Axes: n tokens of the merged stream, text first, then video with time slowest; d width; k heads of c channels,
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
from cogvideox.transformer.config import GridRule, TransformerConfig

_THETA = 10_000.0


@dataclass(frozen=True)
class Positions:
    """What the transformer needs to know of positions, computed once per size and used in every block of every step.

    rope: cosine and sine of the angle of each pair of channels, in float32; text tokens do not turn (1, 0), so that one
        multiplication rotates the whole stream. None without rotary positions.
    sincos: vectors added to the stream, zero for text. None without sinusoidal positions.
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
    rule: GridRule | None = None,
    device: torch.device | str | None = None,
) -> Positions:
    """The positions of a clip of `num_frames` latent frames of `height` x `width` latent pixels.

    Args:
        num_text: text tokens before the video (default: the config's `max_text_seq_length`).
        rule: how rotary coordinates follow the size (default: the config's `grid_rule`).

    Raises:
        UserError: a size that patches do not divide, or another than learned positions are made for; a rule without
            rotary positions.
    """
    num_text = config.max_text_seq_length if num_text is None else num_text
    grid = token_grid(config, num_frames, height, width)
    if config.use_learned_positional_embeddings:
        check_learned_positions(config, grid, num_text)
    if config.grid_rule is None:
        if rule is not None:
            raise UserError(f"the grid rule {rule!r} is for rotary positions, and this model adds sinusoidal ones")
        return Positions(None, _sincos(config, grid, num_text, device))
    return Positions(_rope(config, grid, num_text, rule or config.grid_rule, device), None)


def concatenate_positions(clips: Sequence[Positions]) -> Positions:
    """The positions of clips that follow each other in one row, each counted anew."""
    ropes = [clip.rope for clip in clips if clip.rope is not None]
    sincos = [clip.sincos for clip in clips if clip.sincos is not None]
    return Positions(torch.cat(ropes) if ropes else None, torch.cat(sincos) if sincos else None)


def token_grid(config: TransformerConfig, num_frames: int, height: int, width: int) -> tuple[int, int, int]:
    """How many tokens a latent clip has along time, height and width.

    Raises:
        UserError: a size that the patch size does not divide.
    """
    names, sizes = ("frames", "height", "width"), (num_frames, height, width)
    for name, size, patch in zip(names, sizes, config.patch):
        if size < 1 or size % patch:
            legal = max(patch, round(size / patch) * patch)
            raise UserError(f"latent {name} {size} is not a multiple of the patch size {patch}; the nearest is {legal}")
    t, h, w = (size // patch for size, patch in zip(sizes, config.patch))
    return t, h, w


def check_learned_positions(config: TransformerConfig, grid: tuple[int, int, int], num_text: int) -> None:
    """Learned positions know one height, width and text length, and no longer clip than they were made for.

    A shorter clip is the beginning of the table, whose slowest axis is time.

    Args:
        grid: `token_grid` of the clip.

    Raises:
        UserError: another size; the message gives the legal one, in latent frames and pixels.
    """
    base_t, base_h, base_w = config.base_grid
    t, h, w = grid
    if (h, w) != (base_h, base_w) or t > base_t:
        pt, ph, pw = config.patch
        raise UserError(
            f"a latent clip of {t * pt} frames, {h * ph}x{w * pw}, does not fit this model's learned positions: they "
            f"are made for {base_h * ph}x{base_w * pw} and at most {base_t * pt} latent frames"
        )
    if num_text != config.max_text_seq_length:
        raise UserError(
            f"a text of {num_text} tokens does not fit this model's learned positions: they are made for "
            f"{config.max_text_seq_length}"
        )


def rotate(x: Float[Tensor, "b n k c"], rope: Float[Tensor, "n p 2"]) -> Float[Tensor, "b n k c"]:
    """Turn each pair of channels (2i, 2i+1) of queries or keys by its token's angle, in float32."""
    pairs = x.float().unflatten(-1, (-1, 2))
    turn = rope[:, None]
    if torch.compiler.is_compiling():
        # The compiler writes one pass from real arithmetic and none from complex numbers.
        (real, imag), (cos, sin) = pairs.unbind(-1), turn.unbind(-1)
        turned = torch.stack((real * cos - imag * sin, imag * cos + real * sin), dim=-1)
    else:
        # Without it one complex product is one pass over memory where real arithmetic takes six.
        turned = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(turn))
    return turned.flatten(-2).to(x.dtype)


def _rope(
    config: TransformerConfig,
    grid: tuple[int, int, int],
    num_text: int,
    rule: GridRule,
    device: torch.device | str | None,
) -> Float[Tensor, "n p 2"]:
    t, h, w = grid
    # In tokens: where the first row and column lie, and how many rows and columns the clip is stretched over.
    if rule == "resize_crop":
        (top, left), (rows, columns) = _fit(h, w, *config.base_grid[1:])
    else:
        (top, left), (rows, columns) = (0, 0), (h, w)
    counts = {"device": device, "dtype": torch.float32}
    coordinates = (
        torch.arange(t, **counts),
        torch.linspace(top, (top + rows) * (h - 1) / h, h, **counts),
        torch.linspace(left, (left + columns) * (w - 1) / w, w, **counts),
    )
    head_dim = config.attention_head_dim
    shares = (head_dim // 4, head_dim // 8 * 3, head_dim // 8 * 3)
    angles = [
        torch.outer(x, 1.0 / _THETA ** (torch.arange(0, share, 2, **counts) / share))
        for x, share in zip(coordinates, shares)
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
    """Corner and size of an h x w grid that is scaled to just fit into the base grid and centred there, in integers."""
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
        counts = {"device": "cpu", "dtype": torch.float64}  # not every device has float64
        frequency = torch.exp(-math.log(_THETA) / half * torch.arange(half, **counts))
        angle = torch.outer(torch.arange(count, **counts) / scale, frequency)
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
