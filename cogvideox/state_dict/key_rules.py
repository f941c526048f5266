"""Rules for the invertible renaming of state dicts between external names (another code base) and internal names.

A keymap is a list of rules; the first rule whose pattern matches a name applies. In a pattern, `{n}` matches an integer
and a trailing `.*` matches the rest of the name, so one rule covers the weights and biases of all blocks:

    KEYMAP = [
        Rename("transformer_blocks.{n}.attn1.to_out.0.*", "blocks.{n}.attention.out.*"),
        Merge(("transformer_blocks.{n}.attn1.to_q.*", ...to_k.*, ...to_v.*), "blocks.{n}.attention.qkv.*"),
    ]

Both sides of a rule have the same placeholders, and its two tensor functions are inverses. So
`to_external(to_internal(state, rules), rules)` equals `state` (tests/laws/test_keymap_inverts.py). Names that match no
rule and tensors of an incomplete merge are left unchanged, and strict loading reports them.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce

import torch
from torch import Tensor

from cogvideox.errors import UserError


@dataclass(frozen=True)
class Rule:
    """One rule of a keymap.

    Attributes:
        external: name patterns of the external tensors.
        internal: name pattern of the single internal tensor.
        join: builds the internal tensor from the external tensors, in the order of `external`.
        split: the inverse of `join`.
        join_copies: whether `join` allocates memory rather than returning a view of its input.
        split_is_view: whether `split` returns views of its input.

    Raises:
        ValueError: the patterns have different placeholders, so the rule cannot be inverted.
    """

    external: tuple[str, ...]
    internal: str
    join: Callable[[Sequence[Tensor]], Tensor]
    split: Callable[[Tensor], Sequence[Tensor]]
    join_copies: bool = True
    split_is_view: bool = False

    def __post_init__(self) -> None:
        if any(_placeholders(pattern) != _placeholders(self.internal) for pattern in self.external):
            raise ValueError(f"{self.external} and {self.internal!r} must have the same placeholders")
        if len(set(self.external)) != len(self.external):
            raise ValueError(f"{self.external} lists the same name twice")


def Rename(external: str, internal: str) -> Rule:
    """Rename a tensor."""
    return Rule((external,), internal, join=lambda parts: parts[0], split=lambda tensor: (tensor,), join_copies=False)


def Reshape(
    external: str, internal: str, to_internal: Callable[[Tensor], Tensor], to_external: Callable[[Tensor], Tensor]
) -> Rule:
    """Rename a tensor and change its shape or layout; the two functions are inverses and return views."""
    return Rule(
        (external,),
        internal,
        join=lambda parts: to_internal(parts[0]),
        split=lambda tensor: (to_external(tensor),),
        join_copies=False,
    )


def Merge(external: Sequence[str], internal: str, dim: int = 0) -> Rule:
    """Concatenate several tensors of equal shape along `dim` in the given order, such as q, k and v."""
    return Rule(
        tuple(external),
        internal,
        join=lambda parts: _cat(parts, dim),
        split=lambda merged: _chunk(merged, len(external), dim),
        split_is_view=True,
    )


def Interleave(
    external: Sequence[str], internal: str, order: Sequence[tuple[int, int]], num_chunks: int, dim: int = 0
) -> Rule:
    """Split tensors of equal shape into `num_chunks` each along `dim`, and concatenate all chunks in `order`.

    Args:
        order: for each chunk of the internal tensor, (index of the external tensor, index of the chunk in it).

    Raises:
        ValueError: `order` omits or repeats a chunk.
    """
    chunks = [(source, chunk) for source in range(len(external)) for chunk in range(num_chunks)]
    if sorted(order) != chunks:
        raise ValueError(
            f"order must list each (tensor, chunk) of {len(external)} x {num_chunks} exactly once, got {order}"
        )

    def join(parts: Sequence[Tensor]) -> Tensor:
        chunks = [_chunk(part, num_chunks, dim) for part in parts]
        return _cat([chunks[source][chunk] for source, chunk in order], dim)

    def split(merged: Tensor) -> list[Tensor]:
        chunks = dict(zip(order, _chunk(merged, len(order), dim), strict=True))
        return [_cat([chunks[source, chunk] for chunk in range(num_chunks)], dim) for source in range(len(external))]

    return Rule(tuple(external), internal, join, split)


def to_internal(state: Mapping[str, Tensor], rules: Sequence[Rule]) -> dict[str, Tensor]:
    """Convert an external state dict to internal names. The tensors may be views of the input.

    Raises:
        UserError: tensors to join have mismatched shapes, or two tensors map to the same name.
    """
    converted: dict[str, Tensor] = {}
    for name, tensor in state.items():
        rule, names, internal_name = _match_external(name, rules)
        if rule is None or not all(part in state for part in names):
            _add(converted, name, tensor)
        elif name == names[0]:  # a merge is done when its first tensor is reached
            _add(converted, internal_name, _apply(rule.join, [state[part] for part in names], names))
    return converted


def to_external(state: Mapping[str, Tensor], rules: Sequence[Rule]) -> dict[str, Tensor]:
    """Convert an internal state dict to external names, the inverse of `to_internal`. Tensors may be views.

    Raises:
        UserError: a tensor cannot be split, or two tensors map to the same name.
    """
    converted: dict[str, Tensor] = {}
    for name, tensor in state.items():
        rule, names = _match_internal(name, rules)
        if rule is None:
            _add(converted, name, tensor)
        else:
            for external_name, part in zip(names, _apply(rule.split, tensor, [name]), strict=True):
                _add(converted, external_name, part)
    return converted


def external_names(name: str, rules: Sequence[Rule]) -> tuple[str, ...]:
    """Return the external names of an internal tensor."""
    return _match_internal(name, rules)[1]


def join_tensor(name: str, rules: Sequence[Rule], parts: Sequence[Tensor]) -> Tensor:
    """Build the internal tensor `name` from external tensors in the order of `external_names`.

    Raises:
        UserError: the shapes of the parts do not match.
    """
    rule, names = _match_internal(name, rules)
    return parts[0] if rule is None else _apply(rule.join, list(parts), names)


def join_into(name: str, rules: Sequence[Rule], parts: Sequence[Tensor], out: Tensor) -> None:
    """Write the internal tensor `name` into `out`, casting while copying. Merges allocate no temporary tensor.

    Raises:
        UserError: the shapes of the parts do not match.
    """
    rule, _ = _match_internal(name, rules)
    slices = rule.split(out) if rule is not None and rule.split_is_view else ()
    if [piece.shape for piece in slices] == [part.shape for part in parts]:
        for piece, part in zip(slices, parts, strict=True):
            piece.copy_(part)
    else:
        out.copy_(join_tensor(name, rules, parts))


def join_copies(name: str, rules: Sequence[Rule]) -> bool:
    """Return whether `join_tensor` allocates memory for the internal tensor `name`."""
    rule, _ = _match_internal(name, rules)
    return rule is not None and rule.join_copies


def _match_external(name: str, rules: Iterable[Rule]) -> tuple[Rule | None, tuple[str, ...], str]:
    """Find the first rule that matches an external name. Return it, its external names and its internal name."""
    for rule in rules:
        for pattern in rule.external:
            if (fields := _match(pattern, name)) is not None:
                return rule, tuple(_fill(part, fields) for part in rule.external), _fill(rule.internal, fields)
    return None, (name,), name


def _match_internal(name: str, rules: Iterable[Rule]) -> tuple[Rule | None, tuple[str, ...]]:
    """Find the first rule that matches an internal name. Return it and its external names."""
    for rule in rules:
        if (fields := _match(rule.internal, name)) is not None:
            return rule, tuple(_fill(pattern, fields) for pattern in rule.external)
    return None, (name,)


def _chunk(tensor: Tensor, num_chunks: int, dim: int) -> tuple[Tensor, ...]:
    """Split into equal chunks. `Tensor.chunk` may silently return fewer or unequal chunks."""
    if tensor.shape[dim] % num_chunks:
        raise ValueError(f"{tensor.shape[dim]} is not a multiple of {num_chunks}")
    return tensor.chunk(num_chunks, dim)


def _cat(parts: Sequence[Tensor], dim: int) -> Tensor:
    if not parts[0].is_meta:
        return torch.cat(tuple(parts), dim)
    # On the meta device, torch.cat imports the compiler, which takes a second.
    shape = list(parts[0].shape)
    other_sizes = [[*part.shape[:dim], *part.shape[dim + 1 :]] for part in parts]
    if any(sizes != other_sizes[0] for sizes in other_sizes):
        raise ValueError("sizes differ in a dimension other than the concatenated one")
    shape[dim] = sum(part.shape[dim] for part in parts)
    return torch.empty(shape, dtype=reduce(torch.promote_types, (part.dtype for part in parts)), device="meta")


def _add(state: dict[str, Tensor], name: str, tensor: Tensor) -> None:
    if name in state:
        raise UserError(f"two tensors map to the same name {name}")
    state[name] = tensor


def _apply(function: Callable, tensors: Tensor | list[Tensor], names: Sequence[str]):
    """Call `function(tensors)` and turn shape errors into a `UserError` that lists names and shapes."""
    try:
        return function(tensors)
    except (RuntimeError, ValueError, IndexError) as error:
        shapes = [list(tensor.shape) for tensor in ([tensors] if isinstance(tensors, Tensor) else tensors)]
        listed = ", ".join(f"{name} {shape}" for name, shape in zip(names, shapes, strict=True))
        raise UserError(f"the shapes of these weights do not match this model: {listed}") from error


# Matches `{n}`, or `.*` at the end of a pattern.
_PLACEHOLDER = re.compile(r"\{(\w+)\}|\.\*$")


def _placeholders(pattern: str) -> set[str]:
    return {match.group() for match in _PLACEHOLDER.finditer(pattern)}


@lru_cache(maxsize=4096)
def _compile(pattern: str) -> re.Pattern[str]:
    expression, position, seen = "", 0, set()
    for match in _PLACEHOLDER.finditer(pattern):
        expression += re.escape(pattern[position : match.start()])
        field = match.group(1)
        if field is None:
            expression += r"\.(?P<_suffix>.+)"
        else:
            expression += f"(?P={field})" if field in seen else rf"(?P<{field}>\d+)"
            seen.add(field)
        position = match.end()
    return re.compile(expression + re.escape(pattern[position:]))


def _match(pattern: str, name: str) -> dict[str, str] | None:
    match = _compile(pattern).fullmatch(name)
    return None if match is None else match.groupdict()


def _fill(pattern: str, fields: Mapping[str, str]) -> str:
    return _PLACEHOLDER.sub(lambda match: fields[match[1]] if match[1] else f".{fields['_suffix']}", pattern)
