"""Checkpoints of a run: whole or not there, and never executing code.

A run's folder holds `checkpoints/step-00001500/` (`tensors.safetensors`, `state.json`) and `checkpoints/latest`, a text
file with the name of the newest. A checkpoint is written under another name, forced to disk, renamed, and only then
pointed to: whatever happens in between, `latest` names a whole one. State is plain numbers and tensors, so nothing is
ever unpickled.

Several ranks write the tensors that they share in a file each (`training.sharded_checkpoint`), and rank 0 does the
rest. Any number of ranks goes on from either form.
"""

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from cogvideox import config
from cogvideox.atomic_io import atomic_write, cannot_read, cannot_write, remove_stale_files
from cogvideox.errors import UserError
from cogvideox.parallel.fsdp import local_shard
from cogvideox.parallel.mesh import Ranks
from cogvideox.training import sharded_checkpoint as sharded

_ALONE = "tensors.safetensors"
_FOLDER = re.compile(r"step-\d{8,}(\.partial)?")

T = TypeVar("T")


@runtime_checkable
class Stateful(Protocol):
    """A module, an optimizer, an EMA: anything that hands out its state and takes it back."""

    def state_dict(self) -> Any: ...
    def load_state_dict(self, state: Any, /) -> Any: ...


class Checkpoints:
    """The checkpoints under `folder` (a run's folder), of which the newest `keep` are kept.

    With `ranks`, `save` and `load` are called by all of them, and the folder is one that all of them see.
    """

    def __init__(self, folder: str | Path, *, keep: int = 2, ranks: Ranks | None = None) -> None:
        self.folder = Path(folder) / "checkpoints"
        self.keep = max(1, keep)
        self.ranks = ranks

    def latest(self) -> int | None:
        """The step of the newest whole checkpoint, or None.

        Raises UserError when the pointer to it is damaged or cannot be read.
        """
        pointer = self.folder / "latest"
        try:
            return _step_of(pointer.read_text().strip())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise cannot_read(pointer, error) from error
        except ValueError as error:
            raise UserError(f"{pointer} is damaged: write the name of a checkpoint beside it into it") from error

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step is, or would be."""
        return self.folder / f"step-{step:08d}"

    def save(self, step: int, parts: Mapping[str, Stateful]) -> Path:
        """Writes the state of `parts` after `step` optimizer steps.

        Returns the checkpoint's folder. Does nothing when `latest` already is that step: a run is a function of its
        step. Raises UserError when the disk refuses or a tensor is not finite; the checkpoints before it stay.
        """
        target = self.path(step)
        if self.once(self.latest) == step:
            return target
        partial = self.folder / f"{target.name}.partial"
        tensors: dict[str, Tensor] = {}
        try:
            self.once(lambda: _make_folder(partial, target))
            tree = {name: _flatten(part.state_dict(), name, tensors) for name, part in parts.items()}
            if self.ranks is None:
                _check_finite(tensors)
                with _writing(target):
                    save_file({name: _copy(tensor) for name, tensor in tensors.items()}, partial / _ALONE)
            else:
                self.ranks.run_on_all(lambda: _check_finite(tensors))
                sharded.write(partial, tensors, self.ranks)
            self.once(lambda: self._commit(partial, {"step": step, "parts": tree}, target))
        finally:
            if self.ranks is None or self.ranks.rank == 0:
                shutil.rmtree(partial, ignore_errors=True)
        return target

    def _commit(self, partial: Path, document: dict[str, Any], target: Path) -> None:
        with _writing(target):
            files = sorted(path.name for path in partial.iterdir())
            (partial / "state.json").write_text(json.dumps({**document, "files": files}) + "\n")
            for path in partial.iterdir():
                _flush(path)
            if target.exists():  # whole but never pointed to: the run was killed between the rename and the pointer
                shutil.rmtree(target)
            partial.rename(target)
            with atomic_write(self.folder / "latest") as pointer:
                pointer.write_text(target.name + "\n")
                _flush(pointer)
            _flush(self.folder)
            self._prune()

    def load(self, parts: Mapping[str, Stateful], step: int | None = None) -> int:
        """Restores `parts` from the checkpoint of `step` (None: the newest); returns its step.

        Raises UserError when there is none, it cannot be read, or it holds other parts than those asked for.
        """
        step = self.once(self.latest) if step is None else step
        if step is None:
            raise UserError(f"{self.folder} holds no checkpoint to resume from")
        source = self.path(step)
        try:
            document = json.loads((source / "state.json").read_text())
            for name in document.get("files", [_ALONE]):
                if not (source / name).exists():  # a file of several may be missing without a gap that reading shows
                    raise UserError(f"the checkpoint {source} cannot be read: {name} is missing")
            alone = self.ranks is None and (source / _ALONE).exists()
            tensors = load_file(source / _ALONE) if alone else _rooms(parts, sharded.contents(source))
        except (OSError, SafetensorError, ValueError) as error:
            raise UserError(f"the checkpoint {source} cannot be read: {error}") from error
        if document["parts"].keys() != parts.keys():
            raise UserError(f"the checkpoint {source} holds {sorted(document['parts'])}, not {sorted(parts)}")
        if not alone:
            sharded.read(source, tensors, self.ranks)
        for name, part in parts.items():
            try:
                part.load_state_dict(_unflatten(document["parts"][name], tensors))
            # What torch raises depends on what does not fit: keys, shapes, or the kind of the whole.
            except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise UserError(f"the checkpoint {source} does not fit this run's {name}: {error}") from error
        return document["step"]

    def once(self, make: Callable[[], T]) -> T:
        """What is done by rank 0 alone; its answer, or its UserError, is everyone's."""
        return make() if self.ranks is None else self.ranks.run_on_rank_zero(make)

    def _prune(self) -> None:
        """Keep the newest `keep` checkpoints; remove older ones and what a killed save left behind.

        Folders with other names, such as copies that the user made, are left alone.
        """
        latest = self.latest() or 0
        folders = sorted(path for path in self.folder.iterdir() if _FOLDER.fullmatch(path.name))
        whole = [path for path in folders if path.suffix == "" and _step_of(path.name) <= latest]
        for path in set(folders) - set(whole[-self.keep :]):
            shutil.rmtree(path, ignore_errors=True)


def open_run(
    folder: str | Path,
    settings: Any,
    parts: Mapping[str, Stateful],
    *,
    resume: bool,
    keep: int,
    ranks: Ranks | None = None,
) -> tuple[Checkpoints, int]:
    """The checkpoints of a run in `folder`, and the number of steps done, to whose state `parts` are brought.

    A run may go on with other settings than it began with; each difference is printed. `settings.yaml` is written once
    the state is known to fit, so a refused run leaves the one in `folder` as it was. Half-written files of a killed run
    are removed.
    Raises UserError when the folder already holds a run and `resume` does not say that this is meant, and as `load`.
    """
    checkpoints, file = Checkpoints(folder, keep=keep, ranks=ranks), Path(folder) / "settings.yaml"
    step = checkpoints.once(checkpoints.latest)
    if step is not None and not resume:
        raise UserError(f"{folder} holds a run at step {step}: continue it with --resume, or give another --out")
    if step is not None:
        checkpoints.once(lambda: _print_changes(file, settings))
    done = 0 if step is None else checkpoints.load(parts)

    def begin() -> None:
        remove_stale_files(folder, Path(folder) / "samples", checkpoints.folder)
        config.save(settings, file)

    checkpoints.once(begin)
    return checkpoints, done


def _print_changes(file: Path, settings: Any) -> None:
    if not file.exists():
        return
    try:
        before, now = config.dotted(yaml.safe_load(file.read_text())), config.dotted(config.to_dict(settings))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"cannot read {file}, the settings that the run began with: {error}") from error
    for name in sorted(now):
        if now[name] != before.get(name):
            print(f"resumed with {name} = {now[name]}, before {before.get(name)}", file=sys.stderr)


def _step_of(name: str) -> int:
    return int(name.removeprefix("step-"))


def _flush(path: Path) -> None:
    """Forces a file, or the names in a folder, onto the disk."""
    if os.name == "nt" and path.is_dir():  # which cannot open folders
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)  # Windows needs O_RDWR
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise cannot_write(target, error) from error
    except SafetensorError as error:
        if number := re.search(r"\(os error (\d+)\)", str(error)):  # all that it keeps of what the system said
            refusal = OSError(int(number[1]), os.strerror(int(number[1])))
            raise cannot_write(target, refusal) from error
        raise UserError(f"cannot write {target}: {error}") from error


def _make_folder(folder: Path, target: Path) -> None:
    with _writing(target):
        shutil.rmtree(folder, ignore_errors=True)  # with files of other ranks than there are now
        folder.mkdir(parents=True)


def _check_finite(tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not local_shard(tensor).isfinite().all():
            raise UserError(f"{name} is no longer finite, so it is not saved: resume with a lower optim.lr")


def _copy(tensor: Tensor) -> Tensor:
    """With numbers of its own: a file has no two names for the same."""
    return tensor.detach().cpu().contiguous().clone()


def _flatten(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """JSON for a tree of dicts, lists, numbers and tensors; the tensors go to `tensors` under their dotted path.

    A dict becomes a list of pairs, for the keys of an optimizer's state are integers and JSON knows only strings.
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
    raise TypeError(f"{name} is a {type(value).__name__}: a checkpoint holds numbers, strings and tensors only")


def _unflatten(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(tree, dict):
        return tree
    ((kind, content),) = tree.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "list":
        return [_unflatten(item, tensors) for item in content]
    return {key: _unflatten(item, tensors) for key, item in content}


def _rooms(parts: Mapping[str, Stateful], contents: Mapping[str, sharded.Content]) -> dict[str, Tensor]:
    """Tensors for all that a checkpoint holds, sharded as the same are in this run.

    An optimizer has no state before its first step; its state is that of its parameters, which it numbers.
    """
    now: dict[str, Tensor] = {}
    weights: dict[str, Tensor] = {}
    for name, part in parts.items():
        _flatten(part.state_dict(), name, now)
        several = getattr(part, "optimizers", None)
        for prefix, one in [(name, part)] if several is None else [(f"{name}.{i}", o) for i, o in enumerate(several)]:
            numbered = (weight for group in getattr(one, "param_groups", ()) for weight in group["params"])
            weights |= {f"{prefix}.state.{i}": weight for i, weight in enumerate(numbered)}
    found = {}
    for name, (shape, dtype) in contents.items():
        like = now.get(name, weights.get(name.rpartition(".")[0]))
        if like is not None and like.shape == shape:
            found[name] = torch.empty_like(like, dtype=dtype)
        else:
            found[name] = torch.empty(shape, dtype=dtype)
    return found
