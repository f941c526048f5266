"""State dicts in safetensors files: mapped when read, strict when loaded, whole or not there when written."""

import errno
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from cogvideox.disk import cannot_read, writing
from cogvideox.errors import UserError
from cogvideox.weights.keymap import Rule, their_names

_SUFFIX = ".safetensors"
_INDEX_SUFFIX = ".safetensors.index.json"


def load_state(path: str | Path) -> dict[str, Tensor]:
    """Reads a state dict: one `.safetensors` file, an `.index.json` with its shards, or a folder that holds either.

    The tensors are mapped: pages come from the disk when they are first used, and writing to a tensor in place leaves
    the file as it is.

    Raises:
        UserError: a file is missing, truncated or something else than safetensors.
    """
    path = Path(path)
    if path.is_dir():
        path = _in_folder(path)
    if path.name.endswith(".json"):
        return _read_shards(path)
    return _read(path)


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
    path = Path(path)
    if path.suffix != _SUFFIX:
        raise ValueError(f"the name of a weights file ends in {_SUFFIX}, got {path.name}")
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    header = {"format": "pt", **(metadata or {})}
    shards = _shards(state, max_shard_bytes)
    names = [path.name]
    if len(shards) > 1:
        names = [f"{path.stem}-{i:05d}-of-{len(shards):05d}{_SUFFIX}" for i in range(1, len(shards) + 1)]

    with ExitStack() as files:  # leaves in reverse: the index, which makes the shards count, is moved into place last
        if len(shards) > 1:
            index = files.enter_context(writing(path.with_name(path.stem + _INDEX_SUFFIX)))
            placed = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
            total = sum(tensor.nbytes for tensor in state.values())
            index.write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": placed}, indent=2) + "\n")
        for name, shard in zip(names, shards, strict=True):
            temporary = files.enter_context(writing(path.with_name(name)))
            temporary.touch()
            mode = temporary.stat().st_mode
            with _os_errors():
                save_file(shard, temporary, metadata=header)
            temporary.chmod(mode)  # safetensors makes files that only their owner can read
    _remove_other_form(path, names)


def load_strict(module: nn.Module, state: Mapping[str, Tensor], *, where: str, rules: Sequence[Rule] = ()) -> None:
    """Puts `state` into `module`, which may be on the meta device: its parameters become these very tensors.

    Dtype and device are those of the state. Every tensor of the module has to be there, in its shape and finite, and
    nothing else.

    Args:
        where: the file, for the message.
        rules: the keymap that `state` came through, if any, so that the message has the names of the file.

    Raises:
        UserError: tensors are missing, unknown, of another shape, or hold NaN or infinity; they are named.
    """
    expected = module.state_dict()
    misfits = []
    missing = {part for name in expected if name not in state for part in their_names(name, rules)}
    partners = missing & state.keys()  # the other parts of an incomplete merge: they are there, and not at fault
    if absent := sorted(missing - partners):
        misfits.append(f"{_count(absent, 'tensor')} missing ({_some(absent)})")
    if unknown := sorted(state.keys() - expected.keys() - partners):
        misfits.append(f"{_count(unknown, 'tensor')} not of this model ({_some(unknown)})")
    present = [name for name in expected if name in state]
    if misshapen := [
        f"{' + '.join(their_names(name, rules))} is {_kind(state[name])}, not {_kind(expected[name])}"
        for name in present
        if _kind(state[name]) != _kind(expected[name])
    ]:
        misfits.append(f"{_count(misshapen, 'tensor')} of another shape ({_some(misshapen)})")
    if misfits:
        raise UserError(f"the weights in {where} do not fit their configuration: {'; '.join(misfits)}")
    if broken := [" + ".join(their_names(name, rules)) for name in present if not _finite(state[name])]:
        raise UserError(
            f"the weights in {where} are damaged: {_count(broken, 'tensor')} with NaN or infinity ({_some(broken)})"
        )
    module.load_state_dict(state, assign=True)
    left = [name for name, buffer in module.named_buffers() if buffer.is_meta]
    if left:
        raise ValueError(f"buffers that no state dict holds were built on the meta device: {left}")


def _in_folder(folder: Path) -> Path:
    indices = sorted(folder.glob("*" + _INDEX_SUFFIX))
    files = indices or sorted(folder.glob("*" + _SUFFIX))
    if len(files) == 1:
        return files[0]
    if not files:
        raise UserError(f"there are no weights in {folder}: it holds no file that ends in {_SUFFIX}")
    raise UserError(f"which weights in {folder} are meant is unclear, give one of {_some([str(f) for f in files])}")


def _read_shards(index: Path) -> dict[str, Tensor]:
    try:
        placed: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(placed.values()))
        files = [index.parent / name for name in names]
    except OSError as error:
        raise cannot_read(index, error) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"cannot read {index}: it is not an index of weights") from error
    if absent := [name for name, file in zip(names, files, strict=True) if not file.is_file()]:
        raise UserError(f"cannot read {index}: {_count(absent, 'file')} missing beside it ({_some(absent)})")
    state: dict[str, Tensor] = {}
    for name, file in zip(names, files, strict=True):
        shard = _read(file)
        listed = [key for key, holder in placed.items() if holder == name]
        if absent := [key for key in listed if key not in shard]:
            raise UserError(f"cannot read {index}: {file.name} lacks {_count(absent, 'tensor')} ({_some(absent)})")
        state |= {key: shard[key] for key in listed}
    return state


def _read(path: Path) -> dict[str, Tensor]:
    start = b""
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "is a directory")
        with path.open("rb") as file:
            start = file.read(64)
        with safe_open(path, framework="pt") as tensors:
            return {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118 - not a dict
    except OSError as error:
        raise cannot_read(path, error) from error
    except SafetensorError as error:
        if start.startswith(b"version https://git-lfs"):
            reason = "it is a pointer of Git LFS, and the weights themselves were not fetched (git lfs pull)"
        else:
            reason = f"it is truncated or no safetensors file ({str(error).removeprefix('Error while ')})"
        raise UserError(f"cannot read {path}: {reason}") from error


def _shards(state: dict[str, Tensor], max_bytes: int | None) -> list[dict[str, Tensor]]:
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


@contextmanager
def _os_errors() -> Iterator[None]:
    """safetensors reports what the system says as text ("os error 28"): make the `OSError` of it again."""
    try:
        yield
    except SafetensorError as error:
        code = re.search(r"os error (\d+)", str(error))
        raise OSError(int(code[1]) if code else 0, str(error)) from error


def _finite(tensor: Tensor) -> bool:
    """No NaN and no infinity, in one pass over the memory and without a mask of its size."""
    if not tensor.is_floating_point() or tensor.itemsize < 2 or tensor.numel() == 0:
        return True
    return all(bool(end.isfinite()) for end in torch.aminmax(tensor))


def _kind(tensor: Tensor) -> str:
    return f"{list(tensor.shape)}{'' if tensor.is_floating_point() else f' {tensor.dtype}'}"


def _count(things: Sequence[str], noun: str) -> str:
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"


def _some(things: Sequence[str], limit: int = 4) -> str:
    return ", ".join(things[:limit]) + (", ..." if len(things) > limit else "")
