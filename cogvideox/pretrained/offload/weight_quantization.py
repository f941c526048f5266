"""Row-wise int8 and fp8 quantization of weight matrices: lossy, with half the memory of bfloat16.

Weights are stored quantized, and dequantized block by block before use; matrix products run in the network's dtype.
`transformer.acceleration.float8` also runs matrix products in FP8.

Axes: `o` rows and `i` columns of a matrix.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

QuantizedFormat = Literal["int8", "fp8"]
"""int8: errors are at most 1/254 of the row's maximum. fp8 (e4m3): errors are at most 1/16 of each value."""

_DTYPES: dict[QuantizedFormat, torch.dtype] = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}
_MAX_VALUE: dict[QuantizedFormat, float] = {"int8": 127.0, "fp8": 448.0}
_CHUNK_ROWS = 256
"""Number of rows quantized at once, which limits the size of the temporary float32 copy."""


@dataclass(frozen=True)
class QuantizedMatrix:
    """A matrix quantized with one scale per row: `values * scale` approximates the original."""

    values: Shaped[Tensor, "o i"]
    scale: Float[Tensor, "o 1"]

    @classmethod
    def quantize(cls, matrix: Float[Tensor, "o i"], format: QuantizedFormat) -> "QuantizedMatrix":
        """Quantize to the nearest values. Rows of zeros stay zero."""
        values = torch.empty(matrix.shape, dtype=_DTYPES[format], device=matrix.device)
        scale = torch.empty(len(matrix), 1, device=matrix.device)
        for start in range(0, len(matrix), _CHUNK_ROWS):
            rows = slice(start, start + _CHUNK_ROWS)
            chunk = matrix[rows].float()
            maximum = chunk.abs().amax(dim=1, keepdim=True)
            # Clamp to avoid division by zero for rows of zeros or denormals.
            scale[rows] = (maximum / _MAX_VALUE[format]).clamp(min=torch.finfo(scale.dtype).tiny)
            chunk = chunk / scale[rows]
            values[rows] = chunk.round_() if format == "int8" else chunk
        return cls(values, scale)

    @property
    def nbytes(self) -> int:
        """Size of values and scales in bytes."""
        return self.values.nbytes + self.scale.nbytes

    def to(self, device: torch.device) -> "QuantizedMatrix":
        """Copy to a device."""
        return QuantizedMatrix(self.values.to(device), self.scale.to(device))

    def dequantize(self, dtype: torch.dtype) -> Float[Tensor, "o i"]:
        """Dequantize to `dtype`. bfloat16 represents the quantized values of both formats exactly."""
        return self.values.to(dtype).mul_(self.scale)


def fake_quantize_(matrix: Float[Tensor, "o i"], format: QuantizedFormat) -> None:
    """Quantize and dequantize a matrix in place."""
    for rows in matrix.split(_CHUNK_ROWS):
        rows.copy_(QuantizedMatrix.quantize(rows, format).dequantize(matrix.dtype))
