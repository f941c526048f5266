"""The VAE's forward pass without gradients: fast and memory-efficient, by computing layers in strips of rows.

`vae.networks` is the forward pass with gradients. Both have equal results up to rounding, for any number of strips.
Every feature map is a list of strips, cut along the latent rows (a single strip is the whole frame). In each layer,
norm statistics are computed over all strips first. Then strips are computed from top to bottom, each with one row of
the strips above and below it, and a strip is freed as soon as it is no longer needed.

Optimizations:
- tensors are channels-last in memory;
- norm and modulation are one multiply-add that writes into the padded input of the convolution, with scale and shift at
  the size of the latents, and SiLU is in place;
- a 3x3 convolution after nearest upsampling is computed as four 2x2 convolutions before it, with 4/9 of the products;
- on CPUs, see `inference.convolutions`.

Axes: b batch, c channels, t frames, h w height and width; latents have z channels and lt, lh, lw.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from cogvideox.vae.causal_conv import CausalConv3d
from cogvideox.vae.config import MIN_SUMMED_CHANNELS
from cogvideox.vae.inference.convolutions import (
    causal_convolution,
    convolution,
    filters_before_upsampling,
    prepared_weight,
    uses_onednn,
)
from cogvideox.vae.inference.group_stats import group_moments
from cogvideox.vae.inference.host_memory import DiskTensor, release_memory
from cogvideox.vae.inference.sliced_cache import SlicedCache, Strip
from cogvideox.vae.layers import Downsample, GroupNorm, LatentNorm, ResnetBlock, Upsample, source_frames
from cogvideox.vae.networks import Decoder, Encoder, Latents, Level, Pixels

Norm = GroupNorm | LatentNorm
ScaleShift = tuple[Strip, Strip]

_FREED = torch.empty(0, 0, 0, 0, 0)
"""Placeholder for a strip that is no longer needed."""

_CACHED_VALUES = 2**18
"""Number of float32 values in a block that stays in the cache of a CPU core."""

_MIN_RELEASE_BYTES = 2**24
"""Minimum size of a feature map for returning freed CPU memory to the system after a convolution. Without a minimum,
repeated allocation would slow down small frames by a quarter."""


def use_channels_last_weights(network: nn.Module) -> None:
    """Store the filters of all convolutions channels-last in place, which oneDNN reads faster. Values do not change."""
    for conv in network.modules():
        if isinstance(conv, nn.Conv3d):
            conv.weight.data = conv.weight.data.contiguous(memory_format=torch.channels_last_3d)
        elif isinstance(conv, nn.Conv2d):
            conv.weight.data = conv.weight.data.contiguous(memory_format=torch.channels_last)


def encode(encoder: Encoder, video: Pixels, conv_cache: SlicedCache) -> Float[Tensor, "b zz lt lh lw"]:
    """Encode the next chunk of a video to mean and log-variance."""
    x = conv_cache.split(video, 2 ** (len(encoder.levels) - 1))
    x = convolve(x, None, encoder.conv_in, None, conv_cache)
    for level in (*encoder.levels, encoder.mid):
        x = _level(level, x, None, conv_cache)
    return conv_cache.join(convolve(x, encoder.norm_out, encoder.conv_out, None, conv_cache))


def decode(decoder: Decoder, z: Latents, conv_cache: SlicedCache) -> Pixels:
    """Decode the next chunk of latents."""
    x = conv_cache.split(z, 1)
    x = convolve(x, None, decoder.conv_in, None, conv_cache)
    for level in (decoder.mid, *decoder.levels):
        x = _level(level, x, z, conv_cache)
    return conv_cache.join(convolve(x, decoder.norm_out, decoder.conv_out, z, conv_cache))


def _level(level: nn.Module, x: list[Strip], latents: Latents | None, conv_cache: SlicedCache) -> list[Strip]:
    """Apply a level of the encoder or decoder. Consumes x."""
    assert isinstance(level, Level)
    for block in level.resnets:
        assert isinstance(block, ResnetBlock)
        x = resnet(block, x, latents, conv_cache)
    return x if level.resample is None else resample(level.resample, x, conv_cache)


def convolve(
    x: list[Strip], norm: Norm | None, conv: CausalConv3d, latents: Latents | None, conv_cache: SlicedCache
) -> list[Strip]:
    """Apply norm and SiLU (neither if `norm` is None), then the convolution."""
    return [conv_cache.offload(strip) for strip in _convolve_strips(x, norm, conv, latents, conv_cache)]


def resnet(block: ResnetBlock, x: list[Strip], latents: Latents | None, conv_cache: SlicedCache) -> list[Strip]:
    """Apply a ResNet block. Consumes x."""
    hidden = list(_convolve_strips(x, block.norm1, block.conv1, latents, conv_cache))
    shortcut = block.conv_shortcut

    def residual(i: int) -> Strip:
        strip = conv_cache.load(x[i])
        return strip if shortcut is None else convolution(strip, shortcut.weight, shortcut.bias, padding=(0, 0, 0))

    outputs = _convolve_strips(
        hidden, block.norm2, block.conv2, latents, conv_cache, free_input=True, residual=residual
    )
    for i, strip in enumerate(outputs):
        x[i] = conv_cache.offload(strip)
    return x


def resample(layer: Downsample | Upsample, x: list[Strip], conv_cache: SlicedCache) -> list[Strip]:
    """Downsample or upsample. Consumes x."""
    strips = (
        _upsample_strips(layer, x, conv_cache)
        if isinstance(layer, Upsample)
        else _downsample_strips(layer, x, conv_cache)
    )
    return [conv_cache.offload(strip) for strip in strips]


def _convolve_strips(
    x: list[Strip],
    norm: Norm | None,
    conv: CausalConv3d,
    latents: Latents | None,
    conv_cache: SlicedCache,
    *,
    free_input: bool = False,
    residual: Callable[[int], Strip] | None = None,
) -> Iterator[Strip]:
    """Yield the strips of a convolution; `residual` returns what is added to strip i, and is overwritten."""
    scale_shift = None if norm is None else _scale_and_shift(x, norm, latents, conv_cache)
    previous_frames = conv_cache.take_frames(conv, lambda: _last_frames(x, scale_shift, conv_cache))
    last_frames: list[Tensor | DiskTensor] = []
    num_bytes = 0
    for i in range(len(x)):
        padded = _padded_input(x, i, scale_shift, previous_frames, conv_cache)
        num_bytes += padded.nbytes
        if not conv_cache.is_last:
            # Copied, because a view would keep the whole padded input in memory.
            last = padded[:, :, -2:, 1:-1].expand(-1, -1, 2, -1, -1)
            last_frames.append(conv_cache.offload_frames(last.clone(memory_format=torch.channels_last_3d)))
        for k in _freeable(i, len(x)):
            if free_input:
                x[k] = _FREED
            if previous_frames:
                previous_frames[k] = _FREED
        strip = causal_convolution(
            padded,
            conv,
            conv_cache.prepared_weights,
            repeats_first=_repeats_first(padded, conv_cache),
            residual=None if residual is None else residual(i),
        )
        del padded
        yield strip
    if last_frames:
        conv_cache.keep_frames(conv, last_frames)
    if len(x) > 1 and conv_cache.device.type == "cpu" and num_bytes >= _MIN_RELEASE_BYTES:
        release_memory()


def _padded_input(
    x: list[Strip],
    i: int,
    scale_shift: ScaleShift | None,
    previous_frames: list[Tensor | DiskTensor],
    conv_cache: SlicedCache,
) -> Strip:
    """Return the input of a convolution for strip i: normed, with one row above and below and two previous frames.

    The previous frames are omitted if the convolution repeats the first frame (`_repeats_first`).
    """
    b, c, t, h, w = x[i].shape
    num_previous = 0 if _repeats_first(x[i], conv_cache) else 2
    padded = conv_cache.empty(x[i], (b, c, num_previous + t, h + 2, w))
    for target, k, source in _with_neighbors(i, len(x), h):
        if k is None:
            padded[..., target, :] = 0
            continue
        out = padded[:, :, num_previous:, target]
        if scale_shift is None:
            out.copy_(x[k][..., source, :])
        else:
            latent_rows = slice(conv_cache.edges[k], conv_cache.edges[k + 1])
            scale, shift = (f if f.shape[3] == 1 else f[..., latent_rows, :][..., source, :] for f in scale_shift)
            _write_activated(conv_cache.load(x[k], source), scale, shift, out)
        if num_previous:
            previous = out[:, :, :1] if conv_cache.is_first else conv_cache.load(previous_frames[k], source)
            padded[:, :, :num_previous, target] = previous
    return padded


def _repeats_first(x: Strip, conv_cache: SlicedCache) -> bool:
    """Return whether the convolution repeats the first frame, instead of receiving two copies of it."""
    has_many_channels = x.shape[1] >= MIN_SUMMED_CHANNELS
    return conv_cache.is_first and has_many_channels and conv_cache.device.type == "cpu" and uses_onednn(x)


def _last_frames(x: list[Strip], scale_shift: ScaleShift | None, conv_cache: SlicedCache) -> list[Strip]:
    """Return the last two input frames of a convolution, in strips."""
    last = [strip[:, :, -2:] for strip in x]
    if scale_shift is not None:
        scale, shift = (f if f.shape[2] == 1 else f[:, :, -2:] for f in scale_shift)
        scale_shift = scale, shift
    padded = (_padded_input(last, i, scale_shift, list(last), conv_cache) for i in range(len(last)))
    return [strip[:, :, -last[0].shape[2] :, 1:-1] for strip in padded]


def _scale_and_shift(x: list[Strip], norm: Norm, latents: Latents | None, conv_cache: SlicedCache) -> ScaleShift:
    """Combine norm and modulation into one scale and shift, at the size of the latents or of one pixel."""
    inner = norm.norm if isinstance(norm, LatentNorm) else norm
    mean, variance = group_moments((conv_cache.load(strip) for strip in x), inner.num_groups)
    per_group = inner.num_channels // inner.num_groups
    mean, inverse_std = (m.repeat_interleave(per_group, dim=1) for m in (mean, (variance + inner.eps).rsqrt()))
    scale = inner.weight * inverse_std
    shift = inner.bias - mean * scale
    dtype = torch.promote_types(x[0].dtype, torch.float32)
    scale, shift = (rearrange(f.to(dtype), "b c -> b c 1 1 1") for f in (scale, shift))
    if latents is None or isinstance(norm, GroupNorm):
        return scale, shift
    frames = source_frames(x[0].shape[2], latents.shape[2], conv_cache.is_first, latents.device)
    # Latents are small, and channels-last is the layout of the matrix product in `modulation`.
    frame_latents = rearrange(latents, "b z t h w -> b t h w z")[:, frames]
    latent_scale, latent_shift = norm.modulation(rearrange(frame_latents, "b t h w z -> b z t h w")).chunk(2, dim=1)
    return scale * latent_scale, torch.addcmul(latent_shift, latent_scale, shift)


def _upsample_strips(layer: Upsample, x: list[Strip], conv_cache: SlicedCache) -> Iterator[Strip]:
    num_pixels = x[0].shape[3] * x[0].shape[4]
    prepared = conv_cache.prepared_weights
    weight = prepared_weight(layer.conv, "before upsampling", filters_before_upsampling, num_pixels, prepared)
    bias = layer.conv.bias.repeat(4)  # pyrefly: ignore[missing-attribute]
    for i in range(len(x)):
        b, c, t, h, w = x[i].shape
        padded = conv_cache.empty(x[i], (b, c, t, h + 2, w))
        for target, k, source in _with_neighbors(i, len(x), h):
            padded[..., target, :] = 0 if k is None else x[k][..., source, :]
        for k in _freeable(i, len(x)):
            x[k] = _FREED
        frames = convolution(rearrange(padded, "b c t h w -> (b t) c h w"), weight, bias, padding=(0, 1))
        phases = rearrange(frames, "(b t) (p q c) h w -> p q b c t h w", b=b, p=2, q=2)
        num_single = int(conv_cache.is_first) if layer.compress_time else t  # frames that are not repeated
        upsampled = conv_cache.empty(frames, (b, phases.shape[3], 2 * t - num_single, 2 * h, 2 * w))
        out = rearrange(upsampled, "b c t (h p) (w q) -> p q b c t h w", p=2, q=2)
        for p in range(2):
            for q in range(2):
                phase = phases[p, q, ..., p : p + h, q : q + w]
                out[p, q, :, :, :num_single] = phase[:, :, :num_single]
                repeated = out[p, q, :, :, num_single:].unflatten(2, (t - num_single, 2))
                repeated.copy_(phase[:, :, num_single:].unsqueeze(3))
        del padded, frames, phases
        yield upsampled


def _downsample_strips(layer: Downsample, x: list[Strip], conv_cache: SlicedCache) -> Iterator[Strip]:
    for i in range(len(x)):
        b, c, t, h, w = x[i].shape
        num_single = int(conv_cache.is_first) if layer.compress_time else t  # frames that are not averaged
        padded = conv_cache.empty(x[i], (b, c, num_single + (t - num_single) // 2, h + 1, w + 1))
        padded[..., w:] = 0
        for target, k, source in _with_neighbors(i, len(x), h)[1:]:
            out = padded[..., slice(target.start - 1, target.stop - 1), :w]
            if k is None:
                out.zero_()
                continue
            rows = conv_cache.load(x[k], source)
            out[:, :, :num_single] = rows[:, :, :num_single]
            pairs = rows[:, :, num_single:]
            torch.add(pairs[:, :, 0::2], pairs[:, :, 1::2], out=out[:, :, num_single:]).div_(2)
        x[i] = _FREED
        conv = layer.conv
        frames = rearrange(padded, "b c t h w -> (b t) c h w")
        strip = convolution(frames, conv.weight, conv.bias, stride=(2, 2), padding=(0, 0))
        del padded, frames
        yield rearrange(strip, "(b t) c h w -> b c t h w", b=b)


def _with_neighbors(i: int, num_strips: int, height: int) -> list[tuple[slice, int | None, slice]]:
    """List the sources of the rows of strip i, with one more row above and below.

    Returns:
        (target rows, source strip, source rows) for the row above, the strip itself, and the row below. The source is
        None outside of the frame.
    """
    above, below = (k if 0 <= k < num_strips else None for k in (i - 1, i + 1))
    return [
        (slice(0, 1), above, slice(-1, None)),
        (slice(1, height + 1), i, slice(None)),
        (slice(height + 1, height + 2), below, slice(0, 1)),
    ]


def _freeable(i: int, num_strips: int) -> range:
    """Return the indices of the strips that are no longer needed after strip i has been computed."""
    return range(max(i - 1, 0), num_strips if i + 1 == num_strips else i)


def _write_activated(x: Strip, scale: Strip, shift: Strip, out: Strip) -> None:
    """Write SiLU(x * scale + shift) to `out`; scale and shift have the size of the latents and are broadcast."""
    if x.device.type == "cpu" and x.dtype != scale.dtype:
        # PyTorch would cast the whole strip. Smaller blocks are faster, and rounded only once.
        _write_activated_blocks(x, scale, shift, out)
        return
    h, w = scale.shape[3:]
    x, blocks = (rearrange(y, "b c t (h r) (w q) -> b c t h r w q", h=h, w=w) for y in (x, out))
    scale, shift = (rearrange(f, "b c t h w -> b c t h 1 w 1") for f in (scale, shift))
    torch.addcmul(shift, x, scale, out=blocks)
    F.silu(out, inplace=True)


def _write_activated_blocks(x: Strip, scale: Strip, shift: Strip, out: Strip) -> None:
    """Compute `_write_activated` in blocks of latent rows of one frame, in the dtype of the scale (float32).

    Blocks have at most `_CACHED_VALUES` values, but at least one latent row, which is the whole frame where scale and
    shift are the same for all pixels.
    """
    b, c, t, h, w = x.shape
    latent_rows = scale.shape[3]
    rows_per_latent = h // latent_rows
    step = max(1, _CACHED_VALUES // (b * c * rows_per_latent * w))
    for frame in range(t):
        frame_scale, frame_shift = (f[:, :, min(frame, f.shape[2] - 1)].unsqueeze(2) for f in (scale, shift))
        for start in range(0, latent_rows, step):
            rows = slice(start * rows_per_latent, (start + step) * rows_per_latent)
            block = x[:, :, frame : frame + 1, rows].to(scale.dtype)
            latents = slice(start, start + step)
            _write_activated(block, frame_scale[..., latents, :], frame_shift[..., latents, :], block)
            out[:, :, frame : frame + 1, rows] = block
