"""oneDNN on this CPU: the dtypes that it computes with, and matrix products.

PyTorch has no other fast kernels for 16-bit matrix products and convolutions on CPUs, and MKL, its default for float32,
has no AVX-512 kernels for AMD processors.
"""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

IS_X86 = torch.backends.cpu.get_cpu_capability().startswith("AVX")


@cache
def onednn_supports(dtype: torch.dtype) -> bool:
    """Return whether oneDNN is available and has kernels for this dtype on this CPU."""
    if not torch.backends.mkldnn.is_available():
        return False
    if dtype == torch.float32:
        return True
    name = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}.get(dtype)
    return name is not None and bool(getattr(torch.ops.mkldnn, name)())


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, gelu: bool = False) -> Tensor:
    """Compute x @ weight.T + bias without gradients, optionally followed by GELU (tanh approximation)."""
    if IS_X86 and onednn_supports(x.dtype):
        activation = ("gelu", [], "tanh") if gelu else ("none", [], "")
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, *activation)
    out = F.linear(x, weight, bias)
    return F.gelu(out, approximate="tanh") if gelu else out
