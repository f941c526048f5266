"""Attention on CPUs as explicit matrix products in blocks of queries.

PyTorch's attention on CPUs multiplies with MKL, or with slow loops in bfloat16 without AMX. oneDNN's matrix products
are several times as fast. Scores are computed in float32 in every dtype, so the error is that of PyTorch's kernel.

Axes: b batch, n queries, m keys, k heads of c channels.
"""

from jaxtyping import Float
from torch import Tensor

from cogvideox.hardware.onednn import onednn_linear

_BLOCK = 512
"""Number of queries whose scores are computed at once, so that they stay in the cache."""


def blocked_attention(
    q: Float[Tensor, "b n k c"], k: Float[Tensor, "b m k c"], v: Float[Tensor, "b m k c"]
) -> Float[Tensor, "b n k c"]:
    """Return softmax(q k^T / sqrt(c)) v for each head, without gradients."""
    out = v.new_empty(q.shape)
    scale = q.shape[-1] ** -0.5
    for row in range(v.shape[0]):
        for head in range(v.shape[2]):
            queries, keys, values = (x[row, :, head] for x in (q, k, v))
            queries, keys = queries.float() * scale, keys.float().contiguous()
            values = values.mT.contiguous()
            for block, result in zip(queries.split(_BLOCK), out[row, :, head].split(_BLOCK)):
                weights = onednn_linear(block, keys).softmax(-1).to(v.dtype)
                result.copy_(onednn_linear(weights, values))
    return out
