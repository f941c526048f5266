"""Tensors of TorchScript archives, such as CLIP's original checkpoints, read without executing their code.

An archive stores the attributes of its modules in a pickle, `data.pkl`, and the values of tensors in files. The reader
allows only the functions that rebuild tensors; modules become plain objects, from whose attributes names are built as
`state_dict` does.
"""

import pickle
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from cogvideox.errors import UserError
from cogvideox.untrusted.files import reading

MAX_PICKLE_BYTES = 2**26
_DTYPES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "BoolStorage": torch.bool,
}


def is_torchscript(file: str | Path) -> bool:
    """Return whether a file is a TorchScript archive."""
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any(PurePosixPath(name).name == "constants.pkl" for name in archive.namelist())


def read_torchscript(file: str | Path) -> dict[str, Tensor]:
    """Return all tensors of the modules in an archive, by their names in the state dict.

    Raises:
        UserError: the file is missing or damaged, or would run code.
    """
    path = Path(file)
    with reading(path, "not a TorchScript archive"), zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        pickles = [name for name in names if PurePosixPath(name).name == "data.pkl"]
        if len(pickles) != 1 or archive.getinfo(pickles[0]).file_size > MAX_PICKLE_BYTES:
            raise UserError(f"cannot read {path}: it has no data.pkl, or one that is too large")
        records = [archive.getinfo(name) for name in names if "/code/" not in name]
        if any(record.compress_type != zipfile.ZIP_STORED for record in records):
            raise UserError(f"cannot read {path}: compressed archives are not supported")
        with archive.open(pickles[0]) as stream:
            reader = _Reader(stream, archive, pickles[0].removesuffix("data.pkl"))
            try:
                root = reader.load()
            except _ForbiddenError as error:
                raise UserError(f"cannot read {path}: it would run code ({error}), which is not allowed") from None
    tensors: dict[str, Tensor] = {}
    _collect(root, "", tensors)
    return tensors


class _ForbiddenError(Exception):
    """The pickle refers to a function that is not allowed."""


class _Module:
    """Placeholder for a module or another object of the archive, which keeps its attributes."""

    def __setstate__(self, state: Any) -> None:
        self.attributes = state if isinstance(state, dict) else {}


class _Reader(pickle.Unpickler):
    def __init__(self, stream: Any, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(stream)
        self.archive, self.folder = archive, folder

    def find_class(self, module: str, name: str) -> Any:
        """Return a replacement for a class or function of the archive."""
        if module.startswith("__torch__"):
            return type("Module", (_Module,), {})
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda data, *_: data
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if module == "torch.jit._pickle" and name.startswith(("build_", "restore_type_tag")):
            return lambda value, *_: value
        raise _ForbiddenError(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Tensor:
        """Return the values of a tensor."""
        _, dtype, key, _, _ = pid
        folders = (f"{self.folder}data/", self.folder)
        name = next(name for folder in folders if (name := f"{folder}{key}") in self.archive.NameToInfo)
        return torch.frombuffer(bytearray(self.archive.read(name)), dtype=dtype)


def _rebuild(storage: Tensor, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    needed = offset + sum((length - 1) * step for length, step in zip(size, stride)) + 1
    if offset < 0 or min((*size, *stride), default=1) < 0 or needed > len(storage):
        raise ValueError("a tensor is larger than its values")
    return storage.as_strided(tuple(size), tuple(stride), offset)


def _collect(module: Any, prefix: str, tensors: dict[str, Tensor]) -> None:
    for name, value in getattr(module, "attributes", {}).items():
        if isinstance(value, Tensor):
            tensors[prefix + name] = value
        elif isinstance(value, _Module):
            _collect(value, f"{prefix}{name}.", tensors)
