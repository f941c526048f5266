"""4-bit NormalFloat (NF4) storage of matrices (Dettmers et al. 2023, section 3): lossy, 0.5625 bytes per weight.

Weights are divided by the largest magnitude of their block of 64, and rounded to the nearest of 16 values, which are
quantiles of a normal distribution, with an exact zero. Scales are float32.

Axes: `o` rows and `i` columns of a matrix, `k` blocks.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

BLOCK = 64
_CHUNK = 1 << 16
"""Number of blocks converted at once, which limits the size of temporary copies."""


def nf4_values() -> Float[Tensor, "16"]:
    """Return the 16 values, ascending from -1 to 1 (Dettmers et al., appendix E)."""
    offset = (1 - 1 / 32 + 1 - 1 / 30) / 2
    quantiles = torch.special.ndtri
    positive = quantiles(torch.linspace(offset, 0.5, 9, dtype=torch.float64)[:-1])
    negative = -quantiles(torch.linspace(offset, 0.5, 8, dtype=torch.float64)[:-1])
    values = torch.cat([positive, negative, torch.zeros(1, dtype=torch.float64)]).sort().values
    return (values / values.abs().max()).float()


@dataclass(frozen=True)
class NF4Matrix:
    """A matrix in NF4, in blocks of its flattened elements, padded with zeros.

    Attributes:
        codes: two codes per byte: element j of a block in the lower bits, element 32 + j in the upper ones.
        scale: largest magnitude of each block.
    """

    codes: UInt8[Tensor, "k 32"]
    scale: Float[Tensor, "k 1"]
    shape: tuple[int, int]

    @classmethod
    def quantize(cls, matrix: Float[Tensor, "o i"]) -> "NF4Matrix":
        """Round to the nearest values. Blocks of zeros stay zero."""
        flat, table = matrix.flatten(), nf4_values().to(matrix.device)
        bounds = (table[1:] + table[:-1]) / 2
        num_blocks = -(-flat.numel() // BLOCK)
        codes = torch.empty(num_blocks, BLOCK // 2, dtype=torch.uint8, device=matrix.device)
        scale = torch.empty(num_blocks, 1, device=matrix.device)
        for start in range(0, num_blocks, _CHUNK):
            part = flat[start * BLOCK : (start + _CHUNK) * BLOCK].float()
            blocks = torch.nn.functional.pad(part, (0, -len(part) % BLOCK)).view(-1, BLOCK)
            rows = slice(start, start + len(blocks))
            scale[rows] = blocks.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(scale.dtype).tiny)
            low, high = torch.bucketize(blocks / scale[rows], bounds).to(torch.uint8).chunk(2, dim=1)
            codes[rows] = low | high << 4
        return cls(codes, scale, (matrix.shape[0], matrix.shape[1]))

    def dequantize(self, dtype: torch.dtype) -> Float[Tensor, "o i"]:
        """Convert to `dtype`."""
        table, num_elements = nf4_values().to(self.codes.device), self.shape[0] * self.shape[1]
        blocks = torch.empty(len(self.codes), BLOCK, dtype=dtype, device=self.codes.device)
        for codes, scale, out in zip(*(x.split(_CHUNK) for x in (self.codes, self.scale, blocks))):
            for half, part in zip((codes & 15, codes >> 4), out.chunk(2, dim=1)):
                part.copy_(table[half.int()] * scale)
        return blocks.flatten()[:num_elements].view(self.shape)
