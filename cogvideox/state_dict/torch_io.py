"""State dicts in PyTorch's own files (`.pt`, `.pth`, `.bin`, `.ckpt`), which are pickles: read without running code.

A pickle is a program that says which functions to call. Torch's `weights_only` reader knows a short list of harmless
ones and refuses all others; added here are those that checkpoints of SAT and DeepSpeed hold beside their weights:
settings (`argparse.Namespace`) and the state of random generators (numpy arrays and numbers). SAT, DeepSpeed and
Lightning wrap the state dict in a larger one, under `model`, `module` or `state_dict`.
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

from cogvideox.atomic_io import cannot_read
from cogvideox.errors import UserError
from cogvideox.formatting import abbreviate, pluralize
from cogvideox.state_dict.lazy import LazyStateDict, MappedFile
from cogvideox.state_dict.safetensors_io import open_state

SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")

_WRAPPERS = ("model", "module", "state_dict")


def open_weights(path: str | Path) -> LazyStateDict:
    """`open_pickle` or `files.open_state`, by the name of the file."""
    return open_pickle(path) if str(path).endswith(SUFFIXES) else open_state(path)


def open_pickle(path: str | Path) -> LazyStateDict:
    """The state dict in a file that `torch.save` wrote; what else the file holds is passed over.

    The tensors stay in the file, mapped. Files of PyTorch before 1.6 cannot be mapped, and are read whole.

    Raises:
        UserError: the file is missing, truncated or no checkpoint, holds no state dict, or would run code.
    """
    path = Path(path)
    content = _state(_load(path), path)
    if empty := [name for name, tensor in content.items() if tensor.numel() == 0]:
        raise UserError(
            f"cannot read {path}: {pluralize(empty, 'tensor')} without values ({abbreviate(empty)}), as ZeRO-3 "
            "leaves them; join its pieces with DeepSpeed's zero_to_fp32.py first"
        )
    meta = {name: tensor.to("meta") for name, tensor in content.items()}
    if zipfile.is_zipfile(path):
        del content  # with its mapping
        # To read the pickle again takes a tenth of a second.
        file = MappedFile(lambda: _state(_load(path), path).__getitem__, max(path.stat().st_size // 20, 2**26))
    else:
        file = MappedFile(lambda: content.__getitem__, path.stat().st_size)
    return LazyStateDict(meta, {name: (file, name) for name in meta})


def _load(path: Path) -> Any:
    with torch.serialization.safe_globals(_harmless()):
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        except OSError as error:
            raise cannot_read(path, error) from error
        except pickle.UnpicklingError as error:
            if called := _calls(path, str(error)):
                raise UserError(
                    f"{path} is refused: reading it would run code ({abbreviate(called)}), which weights never "
                    "need; ask for the weights as safetensors"
                ) from error
            raise UserError(f"cannot read {path}: it is truncated or no file of PyTorch") from error
        except (RuntimeError, ValueError, EOFError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise UserError(f"cannot read {path}: it is truncated or no file of PyTorch") from error


def _calls(path: Path, message: str) -> list[str]:
    """What a refused pickle would call."""
    if zipfile.is_zipfile(path):
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
    return re.findall(r"GLOBAL ([\w.]+)", message)[:1]


def _harmless() -> list[Any]:
    """What may be called although torch does not know it: it makes plain values and touches nothing else."""
    rebuild, scalar = np.zeros(0).__reduce__()[0], np.float64(0).__reduce__()[0]
    kinds = {type(np.dtype(kind)) for kind in ("?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")}
    # numpy 2 moved its functions, so files call them by two names.
    moved = [
        (function, f"numpy.{core}.multiarray.{name}")
        for core in ("core", "_core")
        for function, name in ((rebuild, "_reconstruct"), (scalar, "scalar"))
    ]
    return [argparse.Namespace, np.ndarray, np.dtype, *kinds, *moved]


def _state(content: Any, path: Path) -> dict[str, Tensor]:
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if isinstance(content, Mapping):
        state = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
        if state:
            return state
    kind = "table without tensors" if isinstance(content, Mapping) else type(content).__name__
    raise UserError(f"cannot read {path}: it holds no state dict, but a {kind}")
