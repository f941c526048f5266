"""Attention on CPUs as explicit matrix products in blocks of queries.

PyTorch's attention on CPUs multiplies with MKL, or with slow loops in bfloat16 without AMX. oneDNN's matrix products
are several times as fast. Scores are computed in float32 in every dtype, so the error is that of PyTorch's kernel.

Axes: b batch, n queries, m keys, k heads of c channels.
"""

from jaxtyping import Float
from torch import Tensor

from cogvideox.hardware.onednn import onednn_linear

_MAX_SCORES = 250_000
"""Number of scores computed at once. They stay in the cache, and their 1 MB is allocated without new pages."""
MIN_BLOCK = 128
"""Minimum number of queries in a block; smaller matrix products are slow."""


def blocked_attention(
    q: Float[Tensor, "b n k c"], k: Float[Tensor, "b m k c"], v: Float[Tensor, "b m k c"]
) -> Float[Tensor, "b n k c"]:
    """Return softmax(q k^T / sqrt(c)) v for each head, without gradients."""
    out = v.new_empty(q.shape)
    scale, num_queries = q.shape[-1] ** -0.5, q.shape[1]
    num_blocks = max(1, min(-(-num_queries * k.shape[1] // _MAX_SCORES), num_queries // MIN_BLOCK))
    block_size = max(1, -(-num_queries // num_blocks))
    for row in range(v.shape[0]):
        for head in range(v.shape[2]):
            queries, keys, values = (x[row, :, head] for x in (q, k, v))
            # oneDNN is slow with strided rows.
            queries, keys = queries.float() * scale, keys.float().contiguous()
            values = values.mT.contiguous()
            for block, result in zip(queries.split(block_size), out[row, :, head].split(block_size)):
                weights = onednn_linear(block, keys).softmax(-1).to(v.dtype)
                result.copy_(onednn_linear(weights, values))
    return out
