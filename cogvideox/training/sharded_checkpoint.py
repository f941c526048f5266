"""Sharded checkpoint files, loadable on any number of ranks: `torch.distributed.checkpoint` with safetensors.

Each rank writes its own shards and reads the shards that it needs. Nothing is unpickled.
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


class TensorInfo(NamedTuple):
    """The full (unsharded) shape and the dtype of a tensor in a checkpoint."""

    shape: torch.Size
    dtype: torch.dtype


def write_tensors(folder: Path, tensors: Mapping[str, Tensor], ranks: Ranks) -> None:
    """Write the tensors of all ranks, sharded or replicated. Called by every rank.

    Raises:
        UserError: a rank cannot write its files; raised on every rank.
    """
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    try:
        contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}  # as safetensors requires
        save(contiguous, storage_writer=writer, process_group=ranks.world)
    except CheckpointException as error:
        raise UserError(f"cannot write {folder}: {_reason(error)}") from error


def read_tensors(folder: Path, tensors: Mapping[str, Tensor], ranks: Ranks | None) -> None:
    """Fill `tensors` in place from the files of a folder, written by any number of ranks. Called by every rank.

    Raises:
        UserError: a tensor is missing or has a different shape; a file is damaged.
    """
    group = None if ranks is None else ranks.world
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # intended
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


def list_tensors(folder: Path) -> dict[str, TensorInfo]:
    """List the tensors in a folder by name, without reading their values.

    Raises:
        UserError: a file is missing or damaged.
    """
    try:
        metadata = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    except (OSError, SafetensorError) as error:
        raise UserError(f"the checkpoint {folder} cannot be read: {error}") from error
    return {
        name: TensorInfo(spec.size, spec.properties.dtype)
        for name, spec in metadata.items()
        if isinstance(spec, TensorStorageMetadata)
    }


def _reason(error: CheckpointException) -> str:
    return "; ".join(sorted({str(exception) for exception, _ in error.failures.values()}))
