"""State dicts in PyTorch's file format (`.pt`, `.pth`, `.bin`, `.ckpt`), read without executing code.

These files are pickles, which may call any function. PyTorch's `weights_only` reader allows a short list of harmless
functions; this module adds the ones used by SAT and DeepSpeed checkpoints: settings (`argparse.Namespace`) and RNG
states (numpy arrays and scalars). The state dict may be nested under `model`, `module` or `state_dict`, as in SAT,
DeepSpeed and Lightning checkpoints.
"""

import argparse
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cogvideox.errors import UserError
from cogvideox.formatting import abbreviate, pluralize
from cogvideox.state_dict.lazy import LazyStateDict, MappedFile
from cogvideox.state_dict.safetensors_io import open_index, open_state
from cogvideox.untrusted.files import reading

SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")

_PROBLEM = "truncated or not a PyTorch file"
_WRAPPERS = ("model", "module", "state_dict")


def open_weights(path: str | Path) -> LazyStateDict:
    """Open a weights file in PyTorch's format (`open_pickle`) or safetensors (`open_state`), based on its suffix.

    The shards of an index may have either format.
    """
    if str(path).endswith(".json"):
        return open_index(
            Path(path), lambda shard: open_pickle(shard) if shard.name.endswith(SUFFIXES) else open_state(shard)
        )
    return open_pickle(path) if str(path).endswith(SUFFIXES) else open_state(path)


def open_pickle(path: str | Path) -> LazyStateDict:
    """Open the state dict in a file written by `torch.save`; other content of the file is ignored.

    The file is memory-mapped. Files from PyTorch versions before 1.6 are read into memory.

    Raises:
        UserError: the file is missing, truncated or not a PyTorch file, contains no state dict, or would execute code.
    """
    path = Path(path)
    with reading(path, _PROBLEM):
        content = _find_state(_load(path), path)
        meta = {name: tensor.to("meta") for name, tensor in content.items()}
        size, is_mapped = path.stat().st_size, zipfile.is_zipfile(path)
    # Tied weights are counted repeatedly, so up to 4 times the file size is allowed. An expanded view has any size.
    if (total := sum(tensor.nbytes for tensor in meta.values())) > 4 * size + 2**26:
        raise UserError(f"cannot read {path}: its tensors have {total:,} bytes, but the file has {size:,}")
    if empty := [name for name, tensor in content.items() if tensor.numel() == 0]:
        raise UserError(
            f"cannot read {path}: {pluralize(empty, 'tensor')} without values ({abbreviate(empty)}), as in DeepSpeed "
            "ZeRO-3 checkpoints; merge the checkpoint with DeepSpeed's zero_to_fp32.py first"
        )
    if is_mapped:
        del content  # unmap the file; it is reopened in 0.1 s when tensors are read
        file = MappedFile(lambda: _find_state(_load(path), path).__getitem__, max(size // 20, 2**26))
    else:
        file = MappedFile(lambda: content.__getitem__, size)
    return LazyStateDict(meta, {name: (file, name) for name in meta})


def _load(path: Path) -> Any:
    with reading(path, _PROBLEM), torch.serialization.safe_globals(_safe_globals()):
        if is_zip := zipfile.is_zipfile(path):
            _check_records(path)
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
        except pickle.UnpicklingError as error:
            if called := _called_functions(path, str(error)):
                raise UserError(
                    f"cannot read {path}: it would run code ({abbreviate(called)}), which is not allowed in weights "
                    "files; use a safetensors file of the same weights"
                ) from error
            raise


def _check_records(path: Path) -> None:
    """Reject compressed archives, and records larger than the file in total; `torch.save` never compresses."""
    with zipfile.ZipFile(path) as file:
        records = file.infolist()
    compressed = [record.filename for record in records if record.compress_type != zipfile.ZIP_STORED]
    if compressed or sum(record.file_size for record in records) > path.stat().st_size:
        raise UserError(
            f"cannot read {path}: compressed archives are not supported, because they may unpack to any size; save it "
            "again with torch.save, which does not compress"
        )


def _called_functions(path: Path, message: str) -> list[str]:
    """List the functions that a rejected pickle would call."""
    if zipfile.is_zipfile(path):
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
    return re.findall(r"GLOBAL ([\w.]+)", message)[:1]


def _safe_globals() -> list[Any]:
    """List the functions that are allowed in addition to PyTorch's; they have no side effects."""
    rebuild, scalar = np.zeros(0).__reduce__()[0], np.float64(0).__reduce__()[0]
    dtypes = {type(np.dtype(name)) for name in ("?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")}
    # numpy 2 moved these functions, so files may contain either name.
    both_names = [
        (function, f"numpy.{core}.multiarray.{name}")
        for core in ("core", "_core")
        for function, name in ((rebuild, "_reconstruct"), (scalar, "scalar"))
    ]
    return [argparse.Namespace, np.ndarray, np.dtype, *dtypes, *both_names]


def _find_state(content: Any, path: Path) -> dict[str, Tensor]:
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if isinstance(content, Mapping):
        state = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
        if unusable := [name for name, tensor in state.items() if tensor.layout != torch.strided or tensor.is_meta]:
            raise UserError(f"cannot read {path}: {abbreviate(unusable)} are sparse or have no values")
        if state:
            return state
    kind = "dict without tensors" if isinstance(content, Mapping) else type(content).__name__
    raise UserError(f"cannot read {path}: it contains a {kind} instead of a state dict")
