"""Matrices in one byte a number, with a scale for each row: half of bfloat16's memory, and not the same numbers.

They are stored so and multiplied in the type of the network: each is spread out again when its turn comes.

Axes: o i a matrix's rows and columns.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

QuantizedFormat = Literal["int8", "fp8"]
"""Whole numbers of equal steps, error at most half a step (1/254 of the row's largest number); or floating-point e4m3,
error at most 1/16 of each number."""

_TYPES: dict[QuantizedFormat, torch.dtype] = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}
_LARGEST: dict[QuantizedFormat, float] = {"int8": 127.0, "fp8": 448.0}
_AT_ONCE = 256
"""Rows that are made at once: their float32 is all that is needed beside the result."""


@dataclass(frozen=True)
class QuantizedMatrix:
    """A matrix in one byte a number: `numbers * scale` is what it stands for."""

    numbers: Shaped[Tensor, "o i"]
    scale: Float[Tensor, "o 1"]

    @classmethod
    def of(cls, matrix: Float[Tensor, "o i"], storage: QuantizedFormat) -> "QuantizedMatrix":
        """The nearest that the storage can say. A row of zeros stays one."""
        numbers = torch.empty(matrix.shape, dtype=_TYPES[storage], device=matrix.device)
        scale = torch.empty(len(matrix), 1, device=matrix.device)
        for start in range(0, len(matrix), _AT_ONCE):
            rows = slice(start, start + _AT_ONCE)
            part = matrix[rows].float()
            largest = part.abs().amax(dim=1, keepdim=True)
            # Where a row is nothing or next to it, what it would be divided by would be 0.
            scale[rows] = (largest / _LARGEST[storage]).clamp(min=torch.finfo(scale.dtype).tiny)
            part = part / scale[rows]
            numbers[rows] = part.round_() if storage == "int8" else part
        return cls(numbers, scale)

    @property
    def nbytes(self) -> int:
        return self.numbers.nbytes + self.scale.nbytes

    def to(self, device: torch.device) -> "QuantizedMatrix":
        return QuantizedMatrix(self.numbers.to(device), self.scale.to(device))

    def spread(self, dtype: torch.dtype) -> Float[Tensor, "o i"]:
        """The matrix, where the numbers are. bfloat16 holds the numbers of either storage exactly."""
        return self.numbers.to(dtype).mul_(self.scale)


def fake_quantize_(matrix: Float[Tensor, "o i"], storage: QuantizedFormat) -> None:
    """Makes a matrix, in place, what it would be after its time in the storage."""
    for rows in matrix.split(_AT_ONCE):
        rows.copy_(QuantizedMatrix.of(rows, storage).spread(matrix.dtype))
