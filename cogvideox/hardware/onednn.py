"""oneDNN on this CPU: the dtypes that it computes with, and matrix products.

PyTorch has no other fast kernels for 16-bit matrix products and convolutions on CPUs, and MKL, its default for float32,
has no AVX-512 kernels for AMD processors.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

IS_X86 = torch.backends.cpu.get_cpu_capability().startswith("AVX")


def _supported_dtypes() -> Iterator[torch.dtype]:
    if torch.backends.mkldnn.is_available():
        yield torch.float32
        if torch.ops.mkldnn._is_mkldnn_bf16_supported():
            yield torch.bfloat16
        if torch.ops.mkldnn._is_mkldnn_fp16_supported():
            yield torch.float16


ONEDNN_DTYPES = frozenset(_supported_dtypes())
"""Dtypes for which oneDNN has kernels on this CPU. A constant, because `torch.compile` cannot trace the checks."""


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, gelu: bool = False) -> Tensor:
    """Compute x @ weight.T + bias without gradients, optionally followed by GELU (tanh approximation)."""
    if IS_X86 and x.dtype in ONEDNN_DTYPES:
        activation = ("gelu", [], "tanh") if gelu else ("none", [], "")
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, *activation)
    out = F.linear(x, weight, bias)
    return F.gelu(out, approximate="tanh") if gelu else out
