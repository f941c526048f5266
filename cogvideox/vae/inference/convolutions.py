"""The VAE's convolutions without gradients: oneDNN's kernels on x86 CPUs, with weights that are prepared once.

- The first chunk of a video is padded with two copies of its first frame. Its first two output frames are computed from
  one and two input frames with sums of the filters' taps, which saves 3 of every 3t products; a single image needs a
  third.
- oneDNN computes with filters in blocks. Other filters are reordered in every call, which takes up to a third of the
  time for small frames. `PreparedWeights` keeps filters that have been summed and reordered.
- The residual is added by the convolution, before its result is rounded.

Axes: b batch, i and o input and output channels, t frames, h w height and width.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from cogvideox.hardware.onednn import IS_X86, ONEDNN_DTYPES
from cogvideox.vae.causal_conv import CausalConv3d
from cogvideox.vae.config import MAX_PREPARED_PIXELS

Output = Float[Tensor, "b o t h w"]


class PreparedWeights:
    """Weights of frozen convolutions, summed and packed for oneDNN; computed again after the weight has changed.

    They are not part of a state dict; copies and pickles start empty.
    """

    def __init__(self) -> None:
        self._entries: dict[nn.Module, tuple[tuple[object, ...], dict[str, Tensor]]] = {}

    def get(self, conv: nn.Conv2d | nn.Conv3d, name: str, prepare: Callable[[Tensor], Tensor]) -> Tensor:
        """Return `prepare(conv.weight)` packed for oneDNN, from an earlier call if the weight is the same."""
        weight = conv.weight
        version = (weight.data_ptr(), weight._version, weight.dtype, weight.shape, weight.stride())
        known, tensors = self._entries.get(conv, (None, {}))
        if known != version:
            tensors = {}
            self._entries[conv] = version, tensors
        if name not in tensors:
            ones = (1,) * (weight.ndim - 2)
            tensors[name] = torch.ops.mkldnn._reorder_convolution_weight(prepare(weight), (0,) * len(ones), ones, ones)
        return tensors[name]

    def clear(self) -> None:
        """Free all weights."""
        self._entries.clear()

    def num_bytes(self) -> int:
        """Return the size of all weights."""
        tensors = [tensor for _, prepared in self._entries.values() for tensor in prepared.values()]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def __deepcopy__(self, memo: object) -> "PreparedWeights":
        return PreparedWeights()

    def __reduce__(self) -> tuple[type["PreparedWeights"], tuple[()]]:
        return PreparedWeights, ()


def uses_onednn(x: Tensor) -> bool:
    """Return whether convolutions of x are computed by oneDNN on an x86 CPU."""
    return IS_X86 and x.device.type == "cpu" and x.dtype in ONEDNN_DTYPES


def prepared_weight(
    conv: nn.Conv2d | nn.Conv3d,
    name: str,
    prepare: Callable[[Tensor], Tensor],
    num_pixels: int,
    prepared: PreparedWeights | None,
) -> Tensor:
    """Return `prepare(conv.weight)`, packed and kept if frames of `num_pixels` are small and the weight is frozen."""
    weight = conv.weight
    is_kept = prepared is not None and num_pixels <= MAX_PREPARED_PIXELS and uses_onednn(weight)
    if not is_kept or weight.requires_grad or weight.is_inference():
        return prepare(weight)
    return prepared.get(conv, name, prepare)


def causal_convolution(
    x: Float[Tensor, "b i _T h_padded w"],
    conv: CausalConv3d,
    prepared: PreparedWeights | None,
    *,
    repeats_first: bool = False,
    residual: Output | None = None,
) -> Output:
    """Compute conv(x) + residual, for an input with one more row above and below.

    Args:
        x: input with two previous frames, or without if `repeats_first`, which requires `uses_onednn(x)`.
        repeats_first: whether the two previous frames are copies of the first frame.
        residual: overwritten.
    """
    if not uses_onednn(x):
        out = convolution(x, conv.weight, conv.bias, padding=(0, 0, 1))
        return out if residual is None else out.add_(residual)
    num_pixels = (x.shape[3] - 2) * x.shape[4]

    def weight(name: str, prepare: Callable[[Tensor], Tensor] = lambda weight: weight) -> Tensor:
        return prepared_weight(conv, name, prepare, num_pixels, prepared)

    if not repeats_first:
        if residual is None:
            return convolution(x, weight("taps"), conv.bias, padding=(0, 0, 1))
        return _add_convolution(residual, x, weight("taps"), conv.bias)
    b, _, t, h, w = x.shape
    out = residual
    if out is None:
        shape = (b, conv.out_channels, t, h - 2, w)
        out = torch.empty(shape, dtype=x.dtype, memory_format=torch.channels_last_3d).zero_()
    _add_convolution(out[:, :, :1], x[:, :, :1], weight("sum", _sum_of_taps), conv.bias)
    if t > 1:
        _add_convolution(out[:, :, 1:2], x[:, :, :2], weight("sum of two", _sum_of_first_two_taps), conv.bias)
    if t > 2:
        _add_convolution(out[:, :, 2:], x, weight("taps"), conv.bias)
    return out


def convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, ...], stride: tuple[int, ...] | None = None
) -> Tensor:
    """Call `F.conv2d` or `F.conv3d`, and on CPUs oneDNN, because PyTorch may select a loop that is 4 times slower."""
    stride = stride or (1,) * len(padding)
    if weight.is_mkldnn:
        ones = (1,) * len(padding)
        return torch.ops.mkldnn._convolution_pointwise(x, weight, bias, padding, stride, ones, 1, "none", [], "")
    if x.device.type == "cpu" and x.dtype in ONEDNN_DTYPES:
        return torch.ops.aten.mkldnn_convolution(x, weight, bias, padding, stride, (1,) * len(padding), 1)
    return (F.conv2d if x.ndim == 4 else F.conv3d)(x, weight, bias, stride, padding)


def filters_before_upsampling(weight: Float[Tensor, "o c 3 3"]) -> Float[Tensor, "_o c 2 2"]:
    """Convert 3x3 filters after nearest upsampling to 2x2 filters before it, one for each of the 2x2 output pixels.

    Two of three neighboring pixels after upsampling are copies of one pixel, so their taps are added: taps 1 and 2 for
    the first pixel of a pair, and taps 0 and 1 for the second.
    """
    weight_float32 = weight.to(torch.promote_types(weight.dtype, torch.float32))  # so that sums are rounded once
    phases = _two_taps(_two_taps(weight_float32, dim=2), dim=4)
    return rearrange(phases, "q p o c a b -> (p q o) c a b").to(weight.dtype)


def _two_taps(weight: Tensor, dim: int) -> Tensor:
    """Return the 2-tap filters of the first and second pixel for 3 taps along `dim`, stacked on a new first axis."""
    left, middle, right = weight.unbind(dim)
    filters = [(left, middle + right), (left + middle, right)]
    return torch.stack([torch.stack(taps, dim) for taps in filters])


def _add_convolution(out: Output, x: Tensor, weight: Tensor, bias: Tensor | None) -> Output:
    """Add the convolution of x to `out` in place; the sum is rounded once."""
    ones = (1, 1, 1)
    return torch.ops.mkldnn._convolution_pointwise_.binary(
        out, x, weight, bias, (0, 0, 1), ones, ones, 1, "add", 1.0, None, [], None
    )


def _sum_of_taps(weight: Float[Tensor, "o c 3 h w"]) -> Float[Tensor, "o c 1 h w"]:
    """Return the filter of a frame that is repeated three times."""
    first, second, third = weight.unbind(2)  # `sum` is nine times as slow
    return (first.float() + second).add_(third).to(weight.dtype).unsqueeze(2)


def _sum_of_first_two_taps(weight: Float[Tensor, "o c 3 h w"]) -> Float[Tensor, "o c 2 h w"]:
    """Return the filter of a frame that is repeated twice, and the frame after it."""
    o, c, _, h, w = weight.shape
    taps = torch.empty((o, c, 2, h, w), dtype=weight.dtype, memory_format=torch.channels_last_3d)
    torch.add(weight[:, :, 0], weight[:, :, 1], out=taps[:, :, 0])
    taps[:, :, 1] = weight[:, :, 2]
    return taps
