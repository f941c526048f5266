"""Export of state dicts with external names. Tensors are split, cast and written one at a time."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from cogvideox.state_dict.key_rules import Rule, to_external
from cogvideox.state_dict.safetensors_io import write_state


def save_external(
    meta: Mapping[str, Tensor],
    tensors: Iterable[tuple[str, Tensor]],
    path: str | Path,
    *,
    rules: Sequence[Rule],
    dtype: torch.dtype | None = None,
    metadata: Mapping[str, str] | None = None,
    max_shard_bytes: int | None = None,
) -> None:
    """Write tensors with internal names to a safetensors file under external names (see `safetensors_io.write_state`).

    Args:
        meta: shapes and dtypes of the internal tensors, on the meta device.
        dtype: dtype in the file; None keeps the dtype of each tensor. Integers are never cast.

    Raises:
        UserError: see `safetensors_io.save_state`. Errors of the iterator `tensors` are passed on.
    """
    write_state(
        external_meta(meta, rules, dtype),
        _split(tensors, rules, dtype),
        path,
        metadata=metadata,
        max_shard_bytes=max_shard_bytes,
    )


def external_meta(
    meta: Mapping[str, Tensor], rules: Sequence[Rule], dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    """Return the shapes and dtypes of the tensors in the file, as tensors on the meta device."""
    return {
        name: torch.empty(tensor.shape, dtype=_dtype_of(tensor, dtype), device="meta")
        for name, tensor in to_external(meta, rules).items()
    }


def _split(
    tensors: Iterable[tuple[str, Tensor]], rules: Sequence[Rule], dtype: torch.dtype | None
) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in tensors:
        yield from to_external({name: tensor.detach().to(dtype=_dtype_of(tensor, dtype))}, rules).items()


def _dtype_of(tensor: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    return dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
