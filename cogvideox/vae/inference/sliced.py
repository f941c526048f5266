"""The VAE without gradients: its layers in strips of rows, exact, in little memory, and faster than one by one.

Inside a chunk of time every feature map is a list of strips, cut along the rows of the latents. Layer by layer the
strips are taken from top to bottom, with one row of each neighbour around them, and what is no longer needed is let
go strip by strip. Norm statistics pool over all strips first. So the result is that of `layers` up to rounding, for
any number of strips; one strip is the whole picture.

What makes it fast:
- channels are last in memory, so written by whoever allocates;
- norm, modulation and SiLU are one multiplication and addition into the padded input of the convolution, with factors
  at the size of the latents, and SiLU in place;
- a 3x3 convolution after doubling by repetition is four 2x2 convolutions before it: 4/9 of the products.

Axes: b batch, c channels, t frames, h w height and width; latents have z channels and lt, lh, lw.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from cogvideox.errors import UserError
from cogvideox.vae.conv_cache import StreamingCache
from cogvideox.vae.inference.group_stats import group_moments
from cogvideox.vae.inference.host_memory import DiskTensor, release_memory, to_host
from cogvideox.vae.layers import CausalConv3d, Downsample, GroupNorm, LatentNorm, ResnetBlock, Upsample, source_frames

Strip = Float[Tensor, "_b _c _t _h _w"]
Rows = list[Tensor]
"""The strips of a feature map, from top to bottom."""

Norm = GroupNorm | LatentNorm

_GONE = torch.empty(0)
"""In place of a strip that is no longer needed."""

_LARGE = 2**24
"""Bytes of a feature map, from which memory of the CPU that was freed goes back to the system after each convolution.
To take it anew costs time, a quarter more for small pictures, where there is little to give back."""


class SlicedCache(StreamingCache):
    """Chunks of one video in order, each in strips of rows.

    Args:
        num_strips: how many; no more than the latents have rows.
        offload: the frames that the next chunk needs wait outside, and what a ResNet block adds to its result as well:
            in the CPU's memory, so that a device holds one feature map of a block and what one strip takes. On the CPU
            itself, only the frames do, in temporary files.
        holds_last: the first chunk is also the last one.

    Raises:
        UserError: fewer than one strip.
    """

    def __init__(self, num_strips: int = 1, *, offload: bool = False, is_last: bool = False) -> None:
        super().__init__(is_last=is_last)
        if num_strips < 1:
            raise UserError(f"strips={num_strips} is not possible; 1 is the whole picture")
        self._num_strips = num_strips
        self._offload = offload
        self._tail_rows: dict[nn.Module, list[Tensor | DiskTensor]] = {}

    def open(self, x: Float[Tensor, "b c t h w"], rows: int) -> Rows:
        self._device = x.device
        num_latents = x.shape[3] // rows
        num = min(self._num_strips, num_latents)
        self._edges = [num_latents * i // num for i in range(num + 1)]
        return list(x.split([rows * (stop - start) for start, stop in zip(self._edges, self._edges[1:])], dim=3))

    def close(self, x: Rows) -> Float[Tensor, "b c t h w"]:
        return torch.cat([self._here(strip) for strip in x], dim=3).contiguous()

    def convolve(self, x: Rows, norm: Norm | None, conv: CausalConv3d, latents: Tensor | None) -> Rows:
        return [self._away(strip) for strip in self._convolved(x, norm, conv, latents)]

    def resnet(self, block: ResnetBlock, x: Rows, latents: Tensor | None) -> Rows:
        hidden = list(self._convolved(x, block.norm1, block.conv1, latents))
        for i, strip in enumerate(self._convolved(hidden, block.norm2, block.conv2, latents, lets_go=True)):
            before, shortcut = self._here(x[i]), block.conv_shortcut
            if shortcut is not None:
                before = _convolution(before, shortcut.weight, shortcut.bias, padding=(0, 0, 0))
            x[i] = self._away(strip.add_(before))
        return x

    def resample(self, layer: Downsample | Upsample, x: Rows) -> Rows:
        changed = self._upsampled(layer, x) if isinstance(layer, Upsample) else self._downsampled(layer, x)
        return [self._away(strip) for strip in changed]

    def _convolved(
        self, x: Rows, norm: Norm | None, conv: CausalConv3d, latents: Tensor | None, *, lets_go: bool = False
    ) -> Iterator[Strip]:
        factors = None if norm is None else self._factors(x, norm, latents)
        before, tails = self._tail_rows.pop(conv, []), []
        num_bytes = 0
        for i in range(len(x)):
            room = self._room(x, i, factors, before)
            num_bytes += room.nbytes
            if not self.is_last:
                tail = room[:, :, -2:, 1:-1].clone()  # a view would keep all of the room
                tails.append(DiskTensor(tail) if self._offload and tail.device.type == "cpu" else self._away(tail))
            for k in _done(i, len(x)):
                if lets_go:
                    x[k] = _GONE
                if before:
                    before[k] = _GONE
            strip = _convolution(room, conv.weight, conv.bias, padding=(0, 0, 1))
            del room
            yield strip
        if tails:
            self._tail_rows[conv] = tails
        if len(x) > 1 and self._device.type == "cpu" and num_bytes >= _LARGE:
            release_memory()

    def _room(self, x: Rows, i: int, factors: tuple[Tensor, Tensor] | None, before: list[Tensor | DiskTensor]) -> Strip:
        """The input of a convolution for strip i: two frames more in front, a row more above and below."""
        b, c, t, h, w = x[i].shape
        room = self._empty(x[i], (b, c, t + 2, h + 2, w))
        for into, k, rows in _around(i, len(x), h):
            if k is None:
                room[..., into, :] = 0
                continue
            out = room[:, :, 2:, into]
            if factors is None:
                out.copy_(x[k][..., rows, :])
            else:
                cut = slice(self._edges[k], self._edges[k + 1])
                scale, shift = (f if f.shape[3] == 1 else f[..., cut, :][..., rows, :] for f in factors)
                _activate(self._here(x[k], rows), scale, shift, out)
            room[:, :, :2, into] = out[:, :, :1] if self.is_first else self._here(before[k], rows)
        return room

    def _factors(self, x: Rows, norm: Norm, latents: Tensor | None) -> tuple[Tensor, Tensor]:
        """What normed and modulated features are x times and plus; of the size of the latents, or of one pixel."""
        inner = norm.norm if isinstance(norm, LatentNorm) else norm
        mean, variance = group_moments((self._here(strip) for strip in x), inner.num_groups)
        each = inner.num_channels // inner.num_groups
        mean, inverse = (m.repeat_interleave(each, dim=1) for m in (mean, (variance + inner.eps).rsqrt()))
        scale = inner.weight * inverse
        shift = inner.bias - mean * scale
        exact = torch.promote_types(x[0].dtype, torch.float32)
        scale, shift = (rearrange(f.to(exact), "b c -> b c 1 1 1") for f in (scale, shift))
        if latents is None or isinstance(norm, GroupNorm):
            return scale, shift
        frames = source_frames(x[0].shape[2], latents.shape[2], self.is_first, latents.device)
        spread = rearrange(latents, "b z t h w -> b t h w z")[:, frames]  # small, and a layout that suits the product
        own_scale, own_shift = norm.modulation(rearrange(spread, "b t h w z -> b z t h w")).chunk(2, dim=1)
        return scale * own_scale, torch.addcmul(own_shift, own_scale, shift)

    def _upsampled(self, layer: Upsample, x: Rows) -> Iterator[Strip]:
        weight = _phases(layer.conv.weight)
        bias = layer.conv.bias.repeat(4)  # pyrefly: ignore[missing-attribute]
        for i in range(len(x)):
            b, c, t, h, w = x[i].shape
            room = self._empty(x[i], (b, c, t, h + 2, w))
            for into, k, rows in _around(i, len(x), h):
                room[..., into, :] = 0 if k is None else x[k][..., rows, :]
            for k in _done(i, len(x)):
                x[k] = _GONE
            frames = _convolution(rearrange(room, "b c t h w -> (b t) c h w"), weight, bias, padding=(0, 1))
            phases = rearrange(frames, "(b t) (p q c) h w -> p q b c t h w", b=b, p=2, q=2)
            once = int(self.is_first) if layer.compress_time else t
            up = self._empty(frames, (b, phases.shape[3], 2 * t - once, 2 * h, 2 * w))
            cells = rearrange(up, "b c t (h p) (w q) -> p q b c t h w", p=2, q=2)
            for p in range(2):
                for q in range(2):
                    phase = phases[p, q, ..., p : p + h, q : q + w]
                    cells[p, q, :, :, :once] = phase[:, :, :once]
                    # Every frame but those is there twice.
                    cells[p, q, :, :, once:].unflatten(2, (t - once, 2)).copy_(phase[:, :, once:].unsqueeze(3))
            del room, frames, phases
            yield up

    def _downsampled(self, layer: Downsample, x: Rows) -> Iterator[Strip]:
        for i in range(len(x)):
            b, c, t, h, w = x[i].shape
            once = int(self.is_first) if layer.compress_time else t
            room = self._empty(x[i], (b, c, once + (t - once) // 2, h + 1, w + 1))
            room[..., w:] = 0
            for into, k, rows in _around(i, len(x), h)[1:]:
                out = room[..., slice(into.start - 1, into.stop - 1), :w]
                if k is None:
                    out.zero_()
                    continue
                part = self._here(x[k], rows)
                out[:, :, :once] = part[:, :, :once]
                pairs = part[:, :, once:]
                torch.add(pairs[:, :, 0::2], pairs[:, :, 1::2], out=out[:, :, once:]).div_(2)
            x[i] = _GONE
            conv = layer.conv
            frames = rearrange(room, "b c t h w -> (b t) c h w")
            strip = _convolution(frames, conv.weight, conv.bias, stride=(2, 2), padding=(0, 0))
            del room, frames
            yield rearrange(strip, "(b t) c h w -> b c t h w", b=b)

    def _here(self, x: Strip | DiskTensor, rows: slice = slice(None)) -> Strip:
        """These rows of a strip, wherever it waits."""
        if isinstance(x, DiskTensor):
            return x.read()[..., rows, :]
        return x[..., rows, :].to(self._device, non_blocking=True)

    def _away(self, x: Strip) -> Strip:
        return to_host(x) if self._offload and x.device.type != "cpu" else x

    def _empty(self, like: Tensor, shape: tuple[int, ...]) -> Strip:
        return torch.empty(shape, dtype=like.dtype, device=self._device, memory_format=torch.channels_last_3d)


def _around(i: int, num_strips: int, height: int) -> list[tuple[slice, int | None, slice]]:
    """The rows of a strip with one more above and below: where each part goes, from which strip (none beyond the
    picture), and which rows of that."""
    above, below = (k if 0 <= k < num_strips else None for k in (i - 1, i + 1))
    return [
        (slice(0, 1), above, slice(-1, None)),
        (slice(1, height + 1), i, slice(None)),
        (slice(height + 1, height + 2), below, slice(0, 1)),
    ]


def _done(i: int, num_strips: int) -> range:
    """The strips that are no longer needed once those around strip i have been read, and were until then."""
    return range(max(i - 1, 0), num_strips if i + 1 == num_strips else i)


def _activate(x: Strip, scale: Strip, shift: Strip, out: Strip) -> None:
    """Write SiLU(x * scale + shift), the factors spread over the pixels that they stand for."""
    h, w = scale.shape[3:]
    cells = (rearrange(y, "b c t (h r) (w q) -> b c t h r w q", h=h, w=w) for y in (x, out))
    x, into = cells
    scale, shift = (rearrange(f, "b c t h w -> b c t h 1 w 1") for f in (scale, shift))
    torch.addcmul(shift, x, scale, out=into)
    F.silu(out, inplace=True)


def _phases(weight: Float[Tensor, "o c 3 3"]) -> Float[Tensor, "_o c 2 2"]:
    """The 3x3 filters that follow a doubling as 2x2 filters before it, for each of the 2x2 pixels that one becomes.

    Of three pixels next to each other after the doubling, two are one before: taps 0 | 1 + 2 for the first pixel of a
    pair, 0 + 1 | 2 for the second.
    """
    exact = weight.to(torch.promote_types(weight.dtype, torch.float32))  # so that sums are rounded once
    phases = _pairs(_pairs(exact, dim=2), dim=4)
    return rearrange(phases, "q p o c a b -> (p q o) c a b").to(weight.dtype)


def _pairs(weight: Tensor, dim: int) -> Tensor:
    """Both 2-tap forms of the 3 taps along an axis, on a new first axis."""
    left, middle, right = weight.unbind(dim)
    forms = [(left, middle + right), (left + middle, right)]
    return torch.stack([torch.stack(form, dim) for form in forms])


def _convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, ...], stride: tuple[int, ...] | None = None
) -> Tensor:
    """`F.conv2d` or `F.conv3d`. On CPUs always by oneDNN: for small pictures torch would take a loop 4 times slower."""
    stride = stride or (1,) * len(padding)
    if x.device.type == "cpu" and x.dtype == torch.float32 and torch.backends.mkldnn.is_available():
        return torch.ops.aten.mkldnn_convolution(x, weight, bias, padding, stride, (1,) * len(padding), 1)
    return (F.conv2d if x.ndim == 4 else F.conv3d)(x, weight, bias, stride, padding)
