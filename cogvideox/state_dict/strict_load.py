"""State dicts into networks, tensor by tensor: everything that is expected, in its shape and finite, and nothing else.

The network waits on the meta device. Each of its tensors is made of those of the file (`keymap`), cast and checked
before the next one is read, so that at no time more than the finished tensors and one unfinished one are in memory.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import reduce

import torch
from torch import Tensor, nn

from cogvideox.errors import UserError
from cogvideox.formatting import abbreviate, pluralize
from cogvideox.state_dict.keymap import Rule, allocates, external_names, join_into, join_tensor, to_internal
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
    """Puts `state` into `module`, which may be on the meta device: its parameters become these very tensors.

    A tensor that a file holds just as it is wanted stays in the file, mapped.

    Args:
        where: the file, for the message.
        rules: leads from the names of `state` to those of the module.
        dtype: of the parameters; None keeps each as it is. Whole numbers are never cast.
        device: of the parameters; None keeps each where it is.

    Raises:
        UserError: tensors are missing, unknown, of another shape, hold NaN or infinity, or numbers that `dtype` cannot
            hold; they are named.
    """
    made = convert_tensors(state, module.state_dict(), where=where, rules=rules, dtype=dtype, device=device)
    module.load_state_dict(dict(made), assign=True)
    left = [name for name, buffer in module.named_buffers() if buffer.is_meta]
    if left:
        raise ValueError(f"buffers that no state dict holds were built on the meta device: {left}")


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
    """The tensors of `expected` (a state dict; its values do not matter) made of those of `state`, in that one's order.

    Args:
        keep: whether the tensors are to be kept; otherwise each may be used only until the next one is asked for.

    The other arguments are those of `load_strict`.

    Raises:
        UserError: as for `load_strict`; what does not fit, before any value is read; what is no number, at the end.
    """
    check_matches(state, expected, where=where, rules=rules)
    broken: list[str] = []
    too_large: list[str] = []
    for name in _in_order(expected, state, rules):
        tensor = _made(name, state, rules, dtype, device, keep)
        if not _finite(tensor):
            parts = [read_transient(state, part) for part in source_names(name, state, rules)]
            overflows = dtype is not None and all(_finite(part.float()) for part in parts)
            (too_large if overflows else broken).append(" + ".join(external_names(name, rules)))
        yield name, tensor
    _refuse(broken, too_large, where, dtype)


def convert_into(
    state: Mapping[str, Tensor], into: Mapping[str, Tensor], *, where: str, rules: Sequence[Rule] = ()
) -> None:
    """The tensors of `into`, which keep their type and device, filled with those of `state`.

    Nothing is held in between: what is cast or joined is so on its way into the place where it stays.

    Raises:
        UserError: as for `load_strict`; what is no number, at the end.
    """
    check_matches(state, into, where=where, rules=rules)
    broken: list[str] = []
    too_large: list[str] = []
    dtype = None
    for name in _in_order(into, state, rules):
        parts, made = [read_transient(state, part) for part in source_names(name, state, rules)], into[name]
        if in_8_bits := any(part.itemsize < 2 for part in parts):  # which can be asked only when they are cast
            join_into(name, rules, parts, made)
        asked = [made] if in_8_bits else parts
        if not all(_finite(part, made.dtype) for part in asked):
            overflows, dtype = all(_finite(part) for part in asked), made.dtype
            (too_large if overflows else broken).append(" + ".join(external_names(name, rules)))
        if not in_8_bits:  # after it was read: a copy to a GPU waits for what runs there
            join_into(name, rules, parts, made)
    _refuse(broken, too_large, where, dtype)


def check_matches(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, where: str, rules: Sequence[Rule] = ()
) -> None:
    """Whether `state` is `expected`, by names and shapes.

    Raises:
        UserError: it is not; what is missing, unknown and of another shape is named.
    """
    if misfits := find_mismatches(state, expected, rules=rules):
        raise UserError(f"the weights in {where} do not fit their configuration: {'; '.join(misfits)}")


def find_mismatches(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, rules: Sequence[Rule] = ()
) -> list[str]:
    """What keeps `state` from being `expected`, each kind in a few words and in the names of the file; [] if nothing.

    No value is read. Raises UserError when tensors that belong together do not fit together.
    """
    have = to_internal(meta_tensors(state), rules)
    misfits = []
    missing = {part for name in expected if name not in have for part in external_names(name, rules)}
    partners = missing & have.keys()  # the other parts of an incomplete merge: they are there, and not at fault
    if absent := sorted(missing - partners):
        misfits.append(f"{pluralize(absent, 'tensor')} missing ({abbreviate(absent)})")
    if unknown := sorted(have.keys() - expected.keys() - partners):
        misfits.append(f"{pluralize(unknown, 'tensor')} not of this model ({abbreviate(unknown)})")
    if misshapen := [
        f"{' + '.join(external_names(name, rules))} is {_kind(have[name])}, not {_kind(expected[name])}"
        for name in expected
        if name in have and _kind(have[name]) != _kind(expected[name])
    ]:
        misfits.append(f"{pluralize(misshapen, 'tensor')} of another shape ({abbreviate(misshapen)})")
    return misfits


def _made(
    name: str,
    state: Mapping[str, Tensor],
    rules: Sequence[Rule],
    dtype: torch.dtype | None,
    device: torch.device | str | None,
    keep: bool,
) -> Tensor:
    sources = source_names(name, state, rules)
    stored = [(state.meta if isinstance(state, LazyStateDict) else state)[part] for part in sources]
    kind = reduce(torch.promote_types, (part.dtype for part in stored))
    kind = dtype if dtype is not None and kind.is_floating_point else kind
    if keep and not allocates(name, rules) and kind == stored[0].dtype and str(device or "cpu") == "cpu":
        parts = [state[part] for part in sources]
    else:
        # Cast and moved before they are joined: no temporary tensor is larger than the finished one. Moved before they
        # are cast, because a GPU does it faster.
        parts = [read_transient(state, part).to(device=device).to(dtype=kind) for part in sources]
    return join_tensor(name, rules, parts).contiguous()


def _in_order(expected: Iterable[str], state: Mapping[str, Tensor], rules: Sequence[Rule]) -> list[str]:
    """In the order of the file, or of one file after the other, because disks like it."""
    at = {name: i for i, name in enumerate(state)}
    return sorted(expected, key=lambda name: at[source_names(name, state, rules)[0]])


def _refuse(broken: Sequence[str], too_large: Sequence[str], where: str, dtype: torch.dtype | None) -> None:
    """Unless both are empty; `dtype` is what the large ones do not fit into."""
    if broken:
        raise UserError(
            f"the weights in {where} are damaged: {pluralize(broken, 'tensor')} with NaN or infinity "
            f"({abbreviate(broken)})"
        )
    if too_large and dtype is not None:
        raise UserError(
            f"the weights in {where} do not fit into {str(dtype).removeprefix('torch.')}, whose numbers end at "
            f"{torch.finfo(dtype).max:g}: {pluralize(too_large, 'tensor')} with larger ones ({abbreviate(too_large)}); "
            f"bfloat16 and float32 hold them"
        )


def source_names(name: str, state: Mapping[str, Tensor], rules: Sequence[Rule]) -> tuple[str, ...]:
    """The tensors of theirs that a tensor of ours is made of; itself, where the state has it under our name already."""
    sources = external_names(name, rules)
    return sources if all(part in state for part in sources) else (name,)


def _finite(tensor: Tensor, dtype: torch.dtype | None = None) -> bool:
    """No NaN and no infinity, nor any in `dtype`, in one pass over the memory and without a mask of its size."""
    if not tensor.is_floating_point() or tensor.itemsize < 2 or tensor.numel() == 0:
        return True
    return all(bool(end.to(dtype).isfinite()) for end in torch.aminmax(tensor))


def _kind(tensor: Tensor) -> str:
    return f"{list(tensor.shape)}{'' if tensor.is_floating_point() else f' {tensor.dtype}'}"
