"""Safetensors files: memory-mapped reading, and atomic writing one tensor at a time."""

import errno
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import safe_open
from torch import Tensor

from cogvideox.atomic_io import atomic_write, cannot_read
from cogvideox.errors import UserError
from cogvideox.formatting import abbreviate, pluralize
from cogvideox.state_dict.lazy import LazyStateDict, MappedFile, TensorReader, meta_tensors
from cogvideox.untrusted.files import parse_json, read_text, reading
from cogvideox.untrusted.text_encoding import check_utf8_path

_SUFFIX = ".safetensors"
_INDEX_SUFFIX = ".safetensors.index.json"

# dtype names in the safetensors format.
_DTYPES = {
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
_DTYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}

# Minimum number of bytes to read before remapping a file, which takes about a millisecond.
_MIN_READ = 4 * 2**20


def open_state(path: str | Path) -> LazyStateDict:
    """Open a state dict on disk: a `.safetensors` file, an `.index.json` with its shards, or a folder with either.

    Reads only names, shapes and dtypes; see `LazyStateDict` for how values are read.

    Raises:
        UserError: a file is missing, truncated or not a safetensors file.
    """
    path = Path(path)
    if path.is_dir():
        path = _find_in_folder(path)
    if path.name.endswith(".json"):
        return open_index(path)
    return _open_file(path)


def load_state(path: str | Path) -> dict[str, Tensor]:
    """Load a state dict (see `open_state`) as views of the memory-mapped files.

    Pages are read on first use; in-place changes to a tensor do not modify the file.

    Raises:
        UserError: see `open_state`.
    """
    return dict(open_state(path))


def save_state(
    state: Mapping[str, Tensor],
    path: str | Path,
    *,
    metadata: Mapping[str, str] | None = None,
    max_shard_bytes: int | None = None,
) -> None:
    """Write a state dict to `path` (`x.safetensors`) atomically.

    Above `max_shard_bytes` it is split into `x-00001-of-00003.safetensors`, ... and `x.safetensors.index.json`, as in
    diffusers and transformers. Files of the other layout from an earlier save are removed.

    Raises:
        UserError: the file cannot be written (permissions, full disk, a file in place of a folder).
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
    """Write a state dict from an iterator of tensors in any order, so that only one is in memory at a time.

    Args:
        meta: shapes and dtypes of all tensors, on the meta device.

    Raises:
        UserError: see `save_state`. Errors of the iterator `tensors` are passed on.
        ValueError: the tensors do not match `meta`.
    """
    path = Path(path)
    if path.suffix != _SUFFIX:
        raise ValueError(f"the name of a weights file must end in {_SUFFIX}, got {path.name}")
    header = {"format": "pt", **(metadata or {})}
    shards = _split_shards(meta, max_shard_bytes)
    names = [path.name]
    if len(shards) > 1:
        names = [f"{path.stem}-{i:05d}-of-{len(shards):05d}{_SUFFIX}" for i in range(1, len(shards) + 1)]

    with ExitStack() as files:  # exits in reverse order: the index is moved into place last
        if len(shards) > 1:
            index = files.enter_context(atomic_write(path.with_name(path.stem + _INDEX_SUFFIX)))
            weight_map = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
            total = sum(tensor.nbytes for tensor in meta.values())
            index.write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2) + "\n")
        offsets: dict[str, tuple[BinaryIO, int]] = {}
        for name, shard in zip(names, shards, strict=True):
            temporary = files.enter_context(atomic_write(path.with_name(name)))
            offsets |= _write_header(files.enter_context(temporary.open("wb")), shard, header)
        for key, tensor in tensors:
            file, offset = offsets.pop(key)
            if (tensor.shape, tensor.dtype) != (meta[key].shape, meta[key].dtype):
                raise ValueError(f"{key} must be {meta[key]}, got {list(tensor.shape)} {tensor.dtype}")
            file.seek(offset)
            file.write(_bytes(tensor))
        if offsets:
            raise ValueError(f"`tensors` lacks {sorted(offsets)}, which are in `meta`")
    _remove_other_layout(path, names)


def _find_in_folder(folder: Path) -> Path:
    indices = sorted(folder.glob("*" + _INDEX_SUFFIX))
    files = indices or sorted(folder.glob("*" + _SUFFIX))
    if len(files) == 1:
        return files[0]
    if not files:
        raise UserError(f"no weights found in {folder}: it must contain a {_SUFFIX} file")
    candidates = abbreviate([str(file) for file in files])
    raise UserError(f"{folder} contains several weights files: pass one of {candidates}")


def open_index(index: Path, open_shard: Callable[[Path], LazyStateDict] | None = None) -> LazyStateDict:
    """Open a sharded state dict from its index, which lists the file of each tensor.

    Args:
        open_shard: opens one shard; defaults to a reader of safetensors files.

    Raises:
        UserError: the file is not an index; or a shard is missing, damaged or not in the same folder, or lacks a
            tensor.
    """
    with reading(index, "not an index of weights"):
        weight_map: dict[str, str] = parse_json(read_text(index))["weight_map"]
        names = sorted(set(weight_map.values()))
        if outside := [name for name in names if "/" in name or "\\" in name]:
            raise UserError(
                f"cannot read {index}: it lists {abbreviate(outside)}, but shards must be in the folder of their index"
            )
        files = [index.parent / name for name in names]
        missing = [name for name, file in zip(names, files, strict=True) if not file.is_file()]
    if missing:
        shards = f"{pluralize(missing, 'shard')} missing next to it ({abbreviate(missing)})"
        raise UserError(f"cannot read {index}: {shards}")
    parts = []
    for name, path in zip(names, files, strict=True):
        shard = (open_shard or _open_file)(path)
        listed = [key for key, other in weight_map.items() if other == name]
        if missing := [key for key in listed if key not in shard]:
            tensors = f"{pluralize(missing, 'tensor')} missing in {path.name} ({abbreviate(missing)})"
            raise UserError(f"cannot read {index}: {tensors}")
        parts.append(shard.select({key: key for key in listed}))
    return LazyStateDict.union(parts)


def _open_file(path: Path) -> LazyStateDict:
    meta, file, metadata = _read_header(path)
    return LazyStateDict(meta, {name: (file, name) for name in meta}, metadata)


def _read_header(path: Path) -> tuple[dict[str, Tensor], MappedFile, dict[str, str]]:
    """Return the tensors of a file on the meta device, the memory-mapped file, and its metadata."""
    check_utf8_path(path)
    with reading(path, "truncated or not a safetensors file"):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "is a directory")
        path.open("rb").close()  # safetensors reports a missing file without its reason
        with safe_open(path, framework="pt") as tensors:
            slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118 - not a dict
            if unsupported := [name for name, part in slices.items() if part.get_dtype() not in _DTYPES]:
                dtypes = abbreviate(sorted({slices[name].get_dtype() for name in unsupported}))
                raise UserError(
                    f"cannot read {path}: {pluralize(unsupported, 'tensor')} with an unsupported dtype ({dtypes}); "
                    f"supported are {', '.join(_DTYPES)}"
                )
            meta = {
                name: torch.empty(part.get_shape(), dtype=_DTYPES[part.get_dtype()], device="meta")
                for name, part in slices.items()
            }
            metadata = tensors.metadata() or {}

    def map_file() -> TensorReader:
        try:
            return safe_open(path, framework="pt").get_tensor
        except OSError as error:
            raise cannot_read(path, error) from error

    return meta, MappedFile(map_file, max(path.stat().st_size // 50, _MIN_READ)), metadata


def _write_header(
    file: BinaryIO, meta: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> dict[str, tuple[BinaryIO, int]]:
    """Write the header of a safetensors file, and return the file and the byte offset of each tensor.

    Tensors with wide dtypes come first, so that every tensor is aligned.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    offset = 0
    offsets = {}
    for name, tensor in sorted(meta.items(), key=lambda item: (-item[1].itemsize, item[0])):
        dtype = _DTYPE_NAMES[tensor.dtype]
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [offset, offset + tensor.nbytes]}
        offsets[name] = offset
        offset += tensor.nbytes
    encoded = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    encoded += b" " * (-len(encoded) % 8)
    file.write(len(encoded).to_bytes(8, "little") + encoded)
    return {name: (file, 8 + len(encoded) + start) for name, start in offsets.items()}


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data


def _split_shards(state: Mapping[str, Tensor], max_bytes: int | None) -> list[dict[str, Tensor]]:
    """Split tensors into shards in order, starting a new shard when a tensor would exceed `max_bytes`."""
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in state.items():
        if max_bytes is not None and shards[-1] and size + tensor.nbytes > max_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    return shards


def _remove_other_layout(path: Path, written: Sequence[str]) -> None:
    """Remove shards and index of an earlier save after writing a single file, and the reverse."""
    shard = re.compile(re.escape(path.stem) + r"-\d{5}-of-\d{5}\.safetensors")
    for file in path.parent.iterdir():
        is_index = file.name == path.stem + _INDEX_SUFFIX and len(written) == 1
        is_weights = (file == path or shard.fullmatch(file.name)) and file.name not in written
        if is_index or is_weights:
            file.unlink()
