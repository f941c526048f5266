"""Safetensors files: mapped when read, written a tensor at a time, whole or not there."""

import errno
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cogvideox.atomic_io import atomic_write, cannot_read
from cogvideox.errors import UserError
from cogvideox.formatting import abbreviate, pluralize
from cogvideox.state_dict.lazy import LazyStateDict, MappedFile, TensorReader, meta_tensors

_SUFFIX = ".safetensors"
_INDEX_SUFFIX = ".safetensors.index.json"

# What the format calls the types.
_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_TYPE_NAMES = {dtype: name for name, dtype in _TYPES.items()}

# To map a file takes about a millisecond, so it is not done anew for less than this.
_LEAST = 4 * 2**20


def open_state(path: str | Path) -> LazyStateDict:
    """A state dict on the disk: one `.safetensors` file, an `.index.json` with its shards, or a folder of either.

    Only names, shapes and types are read; `Stored` says how the values come.

    Raises:
        UserError: a file is missing, truncated or something else than safetensors.
    """
    path = Path(path)
    if path.is_dir():
        path = _in_folder(path)
    if path.name.endswith(".json"):
        return _open_shards(path)
    return _open_file(path)


def load_state(path: str | Path) -> dict[str, Tensor]:
    """Reads a state dict from where `open_state` does, as tensors of the mapped files.

    Pages come from the disk when they are first used, and writing to a tensor in place leaves the file as it is.

    Raises:
        UserError: a file is missing, truncated or something else than safetensors.
    """
    return dict(open_state(path))


def save_state(
    state: Mapping[str, Tensor],
    path: str | Path,
    *,
    metadata: Mapping[str, str] | None = None,
    max_shard_bytes: int | None = None,
) -> None:
    """Writes a state dict to `path` (`x.safetensors`), all of it or, if anything fails, nothing.

    With more than `max_shard_bytes` it becomes `x-00001-of-00003.safetensors`, ... and `x.safetensors.index.json`, the
    layout of diffusers and transformers. What an earlier save under this name left in the other form is removed.

    Raises:
        UserError: there is no permission, the disk is full, or the path leads through a file.
    """
    write_state(meta_tensors(state), state.items(), path, metadata=metadata, max_shard_bytes=max_shard_bytes)


def write_state(
    meta: Mapping[str, Tensor],
    tensors: Iterable[tuple[str, Tensor]],
    path: str | Path,
    *,
    metadata: Mapping[str, str] | None = None,
    max_shard_bytes: int | None = None,
) -> None:
    """`save_state` of tensors that come one at a time, in any order, and are let go once they are written.

    Args:
        meta: the shapes and types of all tensors, as tensors on the meta device.

    Raises:
        UserError: as `save_state`, and whatever making the tensors raises.
        ValueError: the tensors are not those of `meta`.
    """
    path = Path(path)
    if path.suffix != _SUFFIX:
        raise ValueError(f"the name of a weights file ends in {_SUFFIX}, got {path.name}")
    header = {"format": "pt", **(metadata or {})}
    shards = _shards(meta, max_shard_bytes)
    names = [path.name]
    if len(shards) > 1:
        names = [f"{path.stem}-{i:05d}-of-{len(shards):05d}{_SUFFIX}" for i in range(1, len(shards) + 1)]

    with ExitStack() as files:  # leaves in reverse: the index, which makes the shards count, is moved into place last
        if len(shards) > 1:
            index = files.enter_context(atomic_write(path.with_name(path.stem + _INDEX_SUFFIX)))
            placed = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
            total = sum(tensor.nbytes for tensor in meta.values())
            index.write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": placed}, indent=2) + "\n")
        places: dict[str, tuple[BinaryIO, int]] = {}
        for name, shard in zip(names, shards, strict=True):
            temporary = files.enter_context(atomic_write(path.with_name(name)))
            places |= _begin(files.enter_context(temporary.open("wb")), shard, header)
        for key, tensor in tensors:
            file, offset = places.pop(key)
            if (tensor.shape, tensor.dtype) != (meta[key].shape, meta[key].dtype):
                raise ValueError(f"{key} was announced as {meta[key]}, and is {list(tensor.shape)} {tensor.dtype}")
            file.seek(offset)
            file.write(_bytes(tensor))
        if places:
            raise ValueError(f"{sorted(places)} were announced and did not come")
    _remove_other_form(path, names)


def _in_folder(folder: Path) -> Path:
    indices = sorted(folder.glob("*" + _INDEX_SUFFIX))
    files = indices or sorted(folder.glob("*" + _SUFFIX))
    if len(files) == 1:
        return files[0]
    if not files:
        raise UserError(f"there are no weights in {folder}: it holds no file that ends in {_SUFFIX}")
    raise UserError(
        f"which weights in {folder} are meant is unclear, give one of {abbreviate([str(f) for f in files])}"
    )


def _open_shards(index: Path) -> LazyStateDict:
    try:
        placed: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(placed.values()))
        files = [index.parent / name for name in names]
    except OSError as error:
        raise cannot_read(index, error) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"cannot read {index}: it is not an index of weights") from error
    if absent := [name for name, file in zip(names, files, strict=True) if not file.is_file()]:
        raise UserError(f"cannot read {index}: {pluralize(absent, 'file')} missing beside it ({abbreviate(absent)})")
    meta: dict[str, Tensor] = {}
    places: dict[str, tuple[MappedFile, str]] = {}
    for name, path in zip(names, files, strict=True):
        in_file, file, _ = _read_header(path)
        listed = [key for key, holder in placed.items() if holder == name]
        if absent := [key for key in listed if key not in in_file]:
            raise UserError(
                f"cannot read {index}: {path.name} lacks {pluralize(absent, 'tensor')} ({abbreviate(absent)})"
            )
        meta |= {key: in_file[key] for key in listed}
        places |= {key: (file, key) for key in listed}
    return LazyStateDict(meta, places)


def _open_file(path: Path) -> LazyStateDict:
    meta, file, metadata = _read_header(path)
    return LazyStateDict(meta, {name: (file, name) for name in meta}, metadata)


def _read_header(path: Path) -> tuple[dict[str, Tensor], MappedFile, dict[str, str]]:
    """What a file holds, how its values are read, and what it says beside them."""
    start = b""
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "is a directory")
        with path.open("rb") as file:
            start = file.read(64)
        with safe_open(path, framework="pt") as tensors:
            kinds = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118 - not a dict
            if foreign := [name for name, kind in kinds.items() if kind.get_dtype() not in _TYPES]:
                types = abbreviate(sorted({kinds[name].get_dtype() for name in foreign}))
                raise UserError(
                    f"cannot read {path}: {pluralize(foreign, 'tensor')} of a type not known here ({types})"
                )
            meta = {name: _meta(kind.get_shape(), kind.get_dtype()) for name, kind in kinds.items()}
            metadata = tensors.metadata() or {}
    except OSError as error:
        raise cannot_read(path, error) from error
    except SafetensorError as error:
        if start.startswith(b"version https://git-lfs"):
            reason = "it is a pointer of Git LFS, and the weights themselves were not fetched (git lfs pull)"
        else:
            reason = f"it is truncated or no safetensors file ({str(error).removeprefix('Error while ')})"
        raise UserError(f"cannot read {path}: {reason}") from error

    def mapped() -> TensorReader:
        try:
            return safe_open(path, framework="pt").get_tensor
        except OSError as error:
            raise cannot_read(path, error) from error

    return meta, MappedFile(mapped, max(path.stat().st_size // 50, _LEAST)), metadata


def _meta(shape: Sequence[int], type_name: str) -> Tensor:
    return torch.empty(shape, dtype=_TYPES[type_name], device="meta")


def _begin(file: BinaryIO, meta: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, tuple[BinaryIO, int]]:
    """Writes the header of a safetensors file, and says where in the file the bytes of each tensor belong.

    Wide types come first, so that every tensor is aligned.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    offset = 0
    offsets = {}
    for name, tensor in sorted(meta.items(), key=lambda item: (-item[1].itemsize, item[0])):
        kind = _TYPE_NAMES[tensor.dtype]
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [offset, offset + tensor.nbytes]}
        offsets[name] = offset
        offset += tensor.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    return {name: (file, 8 + len(text) + start) for name, start in offsets.items()}


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data


def _shards(state: Mapping[str, Tensor], max_bytes: int | None) -> list[dict[str, Tensor]]:
    """The state in its order, cut wherever the next tensor would make a file larger than `max_bytes`."""
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in state.items():
        if max_bytes is not None and shards[-1] and size + tensor.nbytes > max_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    return shards


def _remove_other_form(path: Path, written: Sequence[str]) -> None:
    """A reader must not find the index of older shards beside a newer single file, or the reverse."""
    shard = re.compile(re.escape(path.stem) + r"-\d{5}-of-\d{5}\.safetensors")
    for other in path.parent.iterdir():
        is_index = other.name == path.stem + _INDEX_SUFFIX and len(written) == 1
        is_weights = (other == path or shard.fullmatch(other.name)) and other.name not in written
        if is_index or is_weights:
            other.unlink()
