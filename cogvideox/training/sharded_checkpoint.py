"""Tensors in shards over ranks, in files that any number of ranks reads: `torch.distributed.checkpoint` in safetensors,
so that nothing is ever unpickled. Each rank writes what it has, and reads what it needs.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter, load, save
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from cogvideox.errors import UserError
from cogvideox.parallel.mesh import Ranks


class Content(NamedTuple):
    """A tensor in a checkpoint: its whole shape, however it is sharded."""

    shape: torch.Size
    dtype: torch.dtype


def write(folder: Path, tensors: Mapping[str, Tensor], ranks: Ranks) -> None:
    """Writes the tensors of all ranks, sharded or the same on each; every rank calls it.

    Raises:
        UserError: on every rank, when the disk of one refuses.
    """
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    try:
        save(dict(tensors), storage_writer=writer, process_group=ranks.world)
    except CheckpointException as error:
        raise UserError(f"cannot write {folder}: {_reason(error)}") from error


def read(folder: Path, tensors: Mapping[str, Tensor], ranks: Ranks | None) -> None:
    """Fills `tensors` (in place) from the files of a folder, whoever wrote them: this process alone, or every rank.

    Raises:
        UserError: a tensor that is missing or of another shape; a file that is damaged.
    """
    group = None if ranks is None else ranks.world
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # which is meant
            load(
                dict(tensors),
                storage_reader=HuggingFaceStorageReader(str(folder)),
                process_group=group,
                no_dist=ranks is None,
            )
    except CheckpointException as error:
        raise UserError(f"the checkpoint {folder} cannot be read: {_reason(error)}") from error
    except (OSError, SafetensorError, RuntimeError, KeyError) as error:
        raise UserError(f"the checkpoint {folder} cannot be read: {error}") from error


def contents(folder: Path) -> dict[str, Content]:
    """The tensors in a folder, by name.

    Raises:
        UserError: a file that is missing or damaged.
    """
    try:
        found = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    except (OSError, SafetensorError) as error:
        raise UserError(f"the checkpoint {folder} cannot be read: {error}") from error
    return {
        name: Content(spec.size, spec.properties.dtype)
        for name, spec in found.items()
        if isinstance(spec, TensorStorageMetadata)
    }


def _reason(error: CheckpointException) -> str:
    return "; ".join(sorted({str(its) for its, _ in error.failures.values()}))
