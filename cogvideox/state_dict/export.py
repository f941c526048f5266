"""Our tensors into a file under another code base's names: split, cast and written one at a time."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from cogvideox.state_dict.keymap import Rule, to_external
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
    """`files.write_state` with our names on this side and theirs in the file.

    Args:
        meta: shapes and types of our tensors, as tensors on the meta device.
        dtype: of the file; None keeps each tensor's own. Whole numbers are never cast.

    Raises:
        UserError: as `files.save_state`, and whatever making the tensors raises.
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
    """What a file will hold, as tensors on the meta device."""
    theirs = to_external(meta, rules)
    return {
        name: torch.empty(tensor.shape, dtype=_kind(tensor, dtype), device="meta") for name, tensor in theirs.items()
    }


def _split(
    tensors: Iterable[tuple[str, Tensor]], rules: Sequence[Rule], dtype: torch.dtype | None
) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in tensors:
        yield from to_external({name: tensor.detach().to(dtype=_kind(tensor, dtype))}, rules).items()


def _kind(tensor: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    return dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
