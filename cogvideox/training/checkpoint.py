"""Atomic checkpoints of a run. Loading one never executes code.

A run folder has `checkpoints/step-00001500/` (`tensors.safetensors`, `state.json`) and `checkpoints/latest`, a text
file that names the newest one. A checkpoint is written under a temporary name, synced to disk, renamed, and then
`latest` is replaced, so that `latest` always names a complete checkpoint. State is plain numbers and tensors; nothing
is unpickled.

With several ranks, each rank writes its shards to its own file (`training.sharded_checkpoint`), and rank 0 writes
`state.json` and `latest`. A checkpoint can be resumed on any number of ranks.
"""

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from cogvideox import config
from cogvideox.atomic_io import atomic_write, cannot_read, cannot_write, remove_stale_files
from cogvideox.errors import UserError
from cogvideox.parallel.mesh import Ranks
from cogvideox.parallel.parallelize import local_shard
from cogvideox.training import sharded_checkpoint as sharded
from cogvideox.training.fault_tolerance.checksums import (
    check_exist,
    check_files,
    check_json_checksum,
    checksums,
    json_with_checksum,
)
from cogvideox.training.optim.optimizers import Optimizers, check_state
from cogvideox.untrusted.files import parse_json, read_text, reading

_TENSOR_FILE = "tensors.safetensors"
_NAME = re.compile(r"step-(\d{8,18})", re.ASCII)

T = TypeVar("T")


@runtime_checkable
class Stateful(Protocol):
    """Anything with a state dict: a module, an optimizer, an EMA, a data loader."""

    def state_dict(self) -> Any: ...
    def load_state_dict(self, state: Any, /) -> Any: ...


class Checkpoints:
    """The checkpoints of a run.

    With `ranks`, every rank calls `save` and `load`, and the folder is on a shared file system.

    Args:
        folder: the run folder.
        keep: number of checkpoints to keep; older ones are deleted.
    """

    def __init__(self, folder: str | Path, *, keep: int = 2, ranks: Ranks | None = None) -> None:
        self.folder = Path(folder) / "checkpoints"
        self.keep = max(1, keep)
        self.ranks = ranks

    def latest(self) -> int | None:
        """Return the step of the newest complete checkpoint, or None if there is none.

        Raises:
            UserError: the file `latest` is damaged or cannot be read.
        """
        pointer = self.folder / "latest"
        try:
            return _step_of(pointer.read_text().strip())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise cannot_read(pointer, error) from error
        except ValueError as error:
            raise UserError(
                f"{pointer} is damaged: replace its content with the name of a checkpoint in the same folder"
            ) from error

    def path(self, step: int) -> Path:
        """Return the folder of a step's checkpoint, whether or not it exists."""
        return self.folder / f"step-{step:08d}"

    def save(self, step: int, parts: Mapping[str, Stateful]) -> Path:
        """Save the state of `parts` after `step` optimizer steps and return the checkpoint's folder.

        Does nothing if the newest checkpoint already has this step.

        Raises:
            UserError: the disk is full or not writable, or a tensor is not finite. Older checkpoints are kept.
        """
        target = self.path(step)
        if self.on_rank_zero(self.latest) == step:
            return target
        temporary = self.folder / f"{target.name}.partial"
        tensors: dict[str, Tensor] = {}
        try:
            self.on_rank_zero(lambda: _make_folder(temporary, target))
            tree = {name: _flatten(part.state_dict(), name, tensors) for name, part in parts.items()}
            if self.ranks is None:
                _check_finite(tensors)
                with _writing(target):
                    save_file({name: _copy(tensor) for name, tensor in tensors.items()}, temporary / _TENSOR_FILE)
            else:
                self.ranks.run_on_all(lambda: _check_finite(tensors))
                sharded.write_tensors(temporary, tensors, self.ranks)
            names = self.on_rank_zero(lambda: sorted(path.name for path in temporary.iterdir()))
            with _writing(target):
                files = checksums(temporary, names, self.ranks)
            document = {"step": step, "parts": tree, "files": files}
            self.on_rank_zero(lambda: self._commit(temporary, document, target))
        finally:
            if self.ranks is None or self.ranks.rank == 0:
                shutil.rmtree(temporary, ignore_errors=True)
        return target

    def _commit(self, temporary: Path, document: dict[str, Any], target: Path) -> None:
        with _writing(target):
            (temporary / "state.json").write_text(json_with_checksum(document), encoding="utf-8")
            for path in temporary.iterdir():
                _sync(path)
            if target.exists():  # complete, but the run was killed before `latest` named it
                shutil.rmtree(target)
            temporary.rename(target)
            with atomic_write(self.folder / "latest") as pointer:
                pointer.write_text(target.name + "\n")
                _sync(pointer)
            _sync(self.folder)
            self._prune()

    def load(self, parts: Mapping[str, Stateful], step: int | None = None) -> int:
        """Restore `parts` from the checkpoint of `step` (None: the newest) and return its step.

        Raises:
            UserError: no checkpoint exists, it is damaged, or its parts or shapes differ.
        """
        step = self.on_rank_zero(self.latest) if step is None else step
        if step is None:
            raise UserError(f"{self.folder} contains no checkpoint to resume from")
        source = self.path(step)
        # Every rank reads `state.json`, because the checks that follow are collective.
        read = partial(_read_document, source)
        trees, files = read() if self.ranks is None else self.ranks.run_on_all(read)
        with _reading(source):
            check_files(source, files, self.ranks)
            single = self.ranks is None and (source / _TENSOR_FILE).exists()
            tensors = load_file(source / _TENSOR_FILE) if single else _allocate(parts, sharded.list_tensors(source))
        if trees.keys() != parts.keys():
            raise UserError(
                f"the checkpoint {source} is of another kind of training: it contains {', '.join(sorted(trees))}, but "
                f"this run needs {', '.join(sorted(parts))}; choose a different folder with --out"
            )
        if not single:
            sharded.read_tensors(source, tensors, self.ranks)
        for name, part in parts.items():
            try:
                part.load_state_dict(_unflatten(trees[name], tensors))
                if isinstance(part, torch.optim.Optimizer | Optimizers):
                    check_state(part)
            except UserError as error:
                raise UserError(f"the checkpoint {source} does not match this run's {name}: {error}") from error
            except Exception as error:  # modules and optimizers raise errors of different types
                reason = " ".join(str(error).split())
                reason = reason if len(reason) <= 200 else f"{reason[:197]}..."
                raise UserError(
                    f"the checkpoint {source} does not match this run's {name}: resume with the settings of the run "
                    f"(settings.yaml), or choose a different folder with --out ({reason})"
                ) from error
        return step

    def on_rank_zero(self, function: Callable[[], T]) -> T:
        """Call `function` on rank 0 only; every rank returns its result or raises its error."""
        return function() if self.ranks is None else self.ranks.run_on_rank_zero(function)

    def _prune(self) -> None:
        """Delete all but the newest `keep` checkpoints, and leftovers of interrupted saves.

        Folders with other names, such as copies made by the user, are kept.
        """
        latest = self.latest() or 0
        folders = sorted(path for path in self.folder.iterdir() if _NAME.fullmatch(path.name.removesuffix(".partial")))
        complete = [path for path in folders if path.suffix == "" and _step_of(path.name) <= latest]
        for path in set(folders) - set(complete[-self.keep :]):
            shutil.rmtree(path, ignore_errors=True)


def _read_document(source: Path) -> tuple[dict[str, Any], dict[str, int] | list[str]]:
    """Read the `state.json` of a checkpoint, and check that its files exist.

    Returns:
        The state tree of each part, and the checksum of each file (only a list of names if it has no checksums).
    """
    with _reading(source):
        text = read_text(source / "state.json")
        document = parse_json(text)
        check_json_checksum(text, document)
        files = document.get("files", [_TENSOR_FILE])
        check_exist(source, files)
        return document["parts"], files


def restore_run(
    folder: str | Path,
    settings: Any,
    parts: Mapping[str, Stateful],
    *,
    resume: bool,
    keep: int,
    ranks: Ranks | None = None,
) -> tuple[Checkpoints, int]:
    """Restore `parts` from the newest checkpoint of the run in `folder`, if there is one, and write `settings.yaml`.

    A run may be resumed with changed settings; each change is printed. `settings.yaml` is written after the state is
    restored, so that a failed resume does not change it. Temporary files of a killed run are deleted.

    Returns:
        The checkpoints, and the number of optimizer steps done.

    Raises:
        UserError: the folder has checkpoints and `resume` is false; see also `Checkpoints.load`.
    """
    checkpoints, file = Checkpoints(folder, keep=keep, ranks=ranks), Path(folder) / "settings.yaml"
    step = checkpoints.on_rank_zero(checkpoints.latest)
    if step is not None and not resume:
        raise UserError(
            f"{folder} contains a run at step {step}: resume it with --resume, or choose a different folder with --out"
        )
    if step is not None:
        checkpoints.on_rank_zero(lambda: _print_changes(file, settings))
    done = 0 if step is None else checkpoints.load(parts)

    def write_settings() -> None:
        remove_stale_files(folder, *Path(folder).glob("*/"), *Path(folder).glob("model/*/"))
        config.save(settings, file)

    checkpoints.on_rank_zero(write_settings)
    return checkpoints, done


def _print_changes(file: Path, settings: Any) -> None:
    if not file.exists():
        return
    before, now = config.dotted(config.read_data(file)), config.dotted(config.to_dict(settings))
    for name in sorted(now):
        if now[name] != before.get(name):
            print(f"resumed with {name} = {now[name]}, was {before.get(name)}", file=sys.stderr)


def _step_of(name: str) -> int:
    """Return the step in the name of a checkpoint. Raises ValueError if the name has a different form."""
    if not (match := _NAME.fullmatch(name)):
        raise ValueError(f"{name[:60]!r} does not match step-NNNNNNNN")
    return int(match[1])


def _sync(path: Path) -> None:
    """Sync a file, or the entries of a folder, to disk."""
    if os.name == "nt" and path.is_dir():  # Windows cannot open folders
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)  # Windows needs O_RDWR
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _reading(source: Path) -> Iterator[None]:
    try:
        with reading(source, "damaged"):
            yield
    except UserError as error:
        reason = str(error).removeprefix(f"cannot read {source}: ")
        raise UserError(f"the checkpoint {source} cannot be read: {reason}") from error


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise cannot_write(target, error) from error
    except SafetensorError as error:
        if match := re.search(r"\(os error (\d+)\)", str(error)):  # safetensors keeps only the errno of an OSError
            cause = OSError(int(match[1]), os.strerror(int(match[1])))
            raise cannot_write(target, cause) from error
        raise UserError(f"cannot write {target}: {error}") from error


def _make_folder(folder: Path, target: Path) -> None:
    with _writing(target):
        shutil.rmtree(folder, ignore_errors=True)  # may contain files of an interrupted save with more ranks
        folder.mkdir(parents=True)


def _check_finite(tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not local_shard(tensor).isfinite().all():
            raise UserError(f"{name} is not finite, so no checkpoint is saved: resume with a lower optim.lr")


def _copy(tensor: Tensor) -> Tensor:
    """Copy to the CPU, because safetensors rejects tensors that share memory."""
    return tensor.detach().cpu().contiguous().clone()


def _flatten(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Convert a tree of dicts, lists, numbers and tensors to JSON; tensors are added to `tensors` by dotted path.

    A dict becomes a list of pairs, because the state of an optimizer has integer keys and JSON allows only strings.
    """
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"dict": [[key, _flatten(item, f"{name}.{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return {"list": [_flatten(item, f"{name}.{index}", tensors) for index, item in enumerate(value)]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{name} is a {type(value).__name__}: a checkpoint can store only numbers, strings and tensors")


def _unflatten(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(tree, dict):
        return tree
    ((kind, content),) = tree.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "list":
        return [_unflatten(item, tensors) for item in content]
    return {key: _unflatten(item, tensors) for key, item in content}


def _allocate(parts: Mapping[str, Stateful], stored: Mapping[str, sharded.TensorInfo]) -> dict[str, Tensor]:
    """Allocate every tensor of a checkpoint, sharded as in this run.

    An optimizer has no state before its first step, so its moments are sharded like its parameters.
    """
    current: dict[str, Tensor] = {}
    parameters: dict[str, Tensor] = {}
    for name, part in parts.items():
        _flatten(part.state_dict(), name, current)
        optimizers = getattr(part, "optimizers", None)
        named = [(name, part)] if optimizers is None else [(f"{name}.{i}", opt) for i, opt in enumerate(optimizers)]
        for prefix, optimizer in named:
            weights = (weight for group in getattr(optimizer, "param_groups", ()) for weight in group["params"])
            parameters |= {f"{prefix}.state.{i}": weight for i, weight in enumerate(weights)}
    allocated = {}
    for name, (shape, dtype) in stored.items():
        template = current.get(name, parameters.get(name.rpartition(".")[0]))
        if template is not None and template.shape == shape:
            allocated[name] = torch.empty_like(template, dtype=dtype)
        else:
            allocated[name] = torch.empty(shape, dtype=dtype)
    return allocated
