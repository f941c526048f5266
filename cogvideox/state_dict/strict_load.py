"""Strict loading of state dicts: names and shapes must match exactly, and all values must be finite.

The network is created on the meta device. Each of its tensors is read, renamed or merged (`key_rules`), cast and
checked before the next one, so that at most one temporary tensor is in memory.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import reduce

import torch
from torch import Tensor, nn

from cogvideox.errors import UserError
from cogvideox.formatting import abbreviate, pluralize
from cogvideox.state_dict.key_rules import Rule, external_names, join_copies, join_into, join_tensor, to_internal
from cogvideox.state_dict.lazy import LazyStateDict, meta_tensors, read_transient


def load_strict(
    module: nn.Module,
    state: Mapping[str, Tensor],
    *,
    where: str,
    rules: Sequence[Rule] = (),
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> None:
    """Load `state` into `module`, which may be on the meta device, and avoid unnecessary copies.

    Unconverted tensors remain views of the mapped file.

    Args:
        where: path of the file, for error messages.
        rules: keymap from the names of `state` (external) to those of the module (internal).
        dtype: dtype of the parameters; None keeps the file's dtypes. Integers are never cast.
        device: device of the parameters; None keeps the device of `state`.

    Raises:
        UserError: tensors are missing, unexpected, have the wrong shape, or contain NaN, infinity or values too large
            for `dtype`. The message lists them.
    """
    tensors = convert_tensors(state, module.state_dict(), where=where, rules=rules, dtype=dtype, device=device)
    module.load_state_dict(dict(tensors), assign=True)
    if meta_buffers := [name for name, buffer in module.named_buffers() if buffer.is_meta]:
        raise ValueError(f"buffers that are not in the state dict are still on the meta device: {meta_buffers}")


def convert_tensors(
    state: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    *,
    where: str,
    rules: Sequence[Rule] = (),
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    keep: bool = True,
) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of `expected`, converted from those of `state`, in file order.

    Args:
        expected: a state dict with the expected names and shapes; its values are ignored.
        keep: whether the caller keeps the tensors; if not, each is valid only until the next one is yielded.

    See `load_strict` for the other arguments.

    Raises:
        UserError: see `load_strict`. Mismatches are raised before reading values, invalid values after the last tensor.
    """
    check_matches(state, expected, where=where, rules=rules)
    non_finite: list[str] = []
    too_large: list[str] = []
    for name in _in_file_order(expected, state, rules):
        tensor = _convert(name, state, rules, dtype, device, keep)
        if not _is_finite(tensor):
            parts = [read_transient(state, part) for part in source_names(name, state, rules)]
            overflows = dtype is not None and all(_is_finite(part.float()) for part in parts)
            (too_large if overflows else non_finite).append(" + ".join(external_names(name, rules)))
        yield name, tensor
    _check_values(non_finite, too_large, where, dtype)


def convert_into(
    state: Mapping[str, Tensor], out: Mapping[str, Tensor], *, where: str, rules: Sequence[Rule] = ()
) -> None:
    """Fill the tensors of `out`, which keep their dtype and device, from those of `state`.

    Tensors are cast and merged during the copy, without temporary tensors.

    Raises:
        UserError: see `load_strict`. Invalid values are raised after the last tensor.
    """
    check_matches(state, out, where=where, rules=rules)
    non_finite: list[str] = []
    too_large: list[str] = []
    dtype = None
    for name in _in_file_order(out, state, rules):
        parts, target = [read_transient(state, part) for part in source_names(name, state, rules)], out[name]
        if is_8_bit := any(part.itemsize < 2 for part in parts):  # 8-bit floats can only be checked after the cast
            join_into(name, rules, parts, target)
        checked = [target] if is_8_bit else parts
        if not all(_is_finite(part, target.dtype) for part in checked):
            overflows, dtype = all(_is_finite(part) for part in checked), target.dtype
            (too_large if overflows else non_finite).append(" + ".join(external_names(name, rules)))
        if not is_8_bit:  # copied after the check, because a copy to a GPU waits for running kernels
            join_into(name, rules, parts, target)
    _check_values(non_finite, too_large, where, dtype)


def check_matches(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, where: str, rules: Sequence[Rule] = ()
) -> None:
    """Check that `state` has exactly the names and shapes of `expected`.

    Raises:
        UserError: they do not match; the message lists missing, unexpected and misshapen tensors.
    """
    if mismatches := find_mismatches(state, expected, rules=rules):
        raise UserError(f"the weights in {where} do not match their config: {'; '.join(mismatches)}")


def find_mismatches(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, rules: Sequence[Rule] = ()
) -> list[str]:
    """List differences in names and shapes, one phrase per kind, using the file's names. Reads no values.

    Raises:
        UserError: tensors to join have mismatched shapes.
    """
    internal = to_internal(meta_tensors(state), rules)
    mismatches = []
    unresolved = {part for name in expected if name not in internal for part in external_names(name, rules)}
    unmerged = unresolved & internal.keys()  # tensors of an incomplete merge keep their external names
    if missing := sorted(unresolved - unmerged):
        mismatches.append(f"{pluralize(missing, 'tensor')} missing ({abbreviate(missing)})")
    if unexpected := sorted(internal.keys() - expected.keys() - unmerged):
        mismatches.append(f"{pluralize(unexpected, 'unexpected tensor')} ({abbreviate(unexpected)})")
    if misshapen := [
        f"{' + '.join(external_names(name, rules))} is {_shape_of(internal[name])}, not {_shape_of(expected[name])}"
        for name in expected
        if name in internal and _shape_of(internal[name]) != _shape_of(expected[name])
    ]:
        mismatches.append(f"{pluralize(misshapen, 'tensor')} with the wrong shape ({abbreviate(misshapen)})")
    return mismatches


def source_names(name: str, state: Mapping[str, Tensor], rules: Sequence[Rule]) -> tuple[str, ...]:
    """Return the names in `state` of the parts of an internal tensor, or its own name if `state` has internal names."""
    sources = external_names(name, rules)
    return sources if all(part in state for part in sources) else (name,)


def _convert(
    name: str,
    state: Mapping[str, Tensor],
    rules: Sequence[Rule],
    dtype: torch.dtype | None,
    device: torch.device | str | None,
    keep: bool,
) -> Tensor:
    sources = source_names(name, state, rules)
    stored = [(state.meta if isinstance(state, LazyStateDict) else state)[part] for part in sources]
    stored_dtype = reduce(torch.promote_types, (part.dtype for part in stored))
    dtype = dtype if dtype is not None and stored_dtype.is_floating_point else stored_dtype
    if keep and not join_copies(name, rules) and dtype == stored[0].dtype and str(device or "cpu") == "cpu":
        parts = [state[part] for part in sources]
    else:
        # Move before casting, because a GPU casts faster. Cast before joining, so that no temporary tensor is larger
        # than the result.
        parts = [read_transient(state, part).to(device=device).to(dtype=dtype) for part in sources]
    return join_tensor(name, rules, parts).contiguous()


def _in_file_order(expected: Iterable[str], state: Mapping[str, Tensor], rules: Sequence[Rule]) -> list[str]:
    """Sort names by file and position in the file, for sequential reads."""
    positions = {name: i for i, name in enumerate(state)}
    return sorted(expected, key=lambda name: positions[source_names(name, state, rules)[0]])


def _check_values(non_finite: Sequence[str], too_large: Sequence[str], where: str, dtype: torch.dtype | None) -> None:
    if non_finite:
        raise UserError(
            f"the weights in {where} are damaged: {pluralize(non_finite, 'tensor')} with NaN or infinity "
            f"({abbreviate(non_finite)}); download or export the file again"
        )
    if too_large and dtype is not None:
        raise UserError(
            f"the weights in {where} do not fit in {str(dtype).removeprefix('torch.')} (largest value "
            f"{torch.finfo(dtype).max:g}): {pluralize(too_large, 'tensor')} with larger values "
            f"({abbreviate(too_large)}); use bfloat16 or float32"
        )


def _is_finite(tensor: Tensor, dtype: torch.dtype | None = None) -> bool:
    """Return whether all values are finite, also after a cast to `dtype`, in one pass without a mask tensor."""
    if not tensor.is_floating_point() or tensor.itemsize < 2 or tensor.numel() == 0:
        return True
    return all(bool(extreme.to(dtype).isfinite()) for extreme in torch.aminmax(tensor))


def _shape_of(tensor: Tensor) -> str:
    return f"{list(tensor.shape)}{'' if tensor.is_floating_point() else f' {tensor.dtype}'}"
