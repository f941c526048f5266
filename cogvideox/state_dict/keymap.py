"""Translation of state dicts between another code base ("theirs") and this package ("ours"), in both directions.

A keymap is a list of rules, and the first rule that fits a name decides. In a pattern `{n}` stands for an integer and a
final `.*` for the rest of the name, so one rule covers every block, weight and bias:

    KEYMAP = [
        Rename("transformer_blocks.{n}.attn1.to_out.0.*", "blocks.{n}.attention.out.*"),
        Merge(("transformer_blocks.{n}.attn1.to_q.*", ...to_k.*, ...to_v.*), "blocks.{n}.attention.qkv.*"),
    ]

A rule holds the same placeholders on both sides and its two tensor functions undo each other, so
`to_theirs(to_ours(state, rules), rules)` is `state` (tests/laws/test_keymap_inverts.py). Names that no rule fits, and
tensors whose partners for a merge are missing, pass through unchanged: the strict load then names them.
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
    """One line of a keymap: `join` makes our tensor of theirs (in the order of `theirs`), `split` undoes it.

    Raises:
        ValueError: the two sides do not hold the same placeholders, so that the rule could not be inverted.
    """

    theirs: tuple[str, ...]
    ours: str
    join: Callable[[Sequence[Tensor]], Tensor]
    split: Callable[[Tensor], Sequence[Tensor]]
    copies: bool = True
    """Whether what `join` makes has memory of its own, or is a view of theirs."""
    cuts: bool = False
    """Whether what `split` makes are views of ours."""

    def __post_init__(self) -> None:
        if any(_placeholders(pattern) != _placeholders(self.ours) for pattern in self.theirs):
            raise ValueError(f"{self.theirs} and {self.ours!r} must hold the same placeholders")
        if len(set(self.theirs)) != len(self.theirs):
            raise ValueError(f"{self.theirs} names one tensor twice")


def Rename(theirs: str, ours: str) -> Rule:
    """The same tensor under another name."""
    return Rule((theirs,), ours, join=lambda parts: parts[0], split=lambda whole: (whole,), copies=False)


def Reshape(theirs: str, ours: str, to_ours: Callable[[Tensor], Tensor], to_theirs: Callable[[Tensor], Tensor]) -> Rule:
    """One tensor in another layout; the two functions give views, and undo each other."""
    return Rule(
        (theirs,),
        ours,
        join=lambda parts: to_ours(parts[0]),
        split=lambda whole: (to_theirs(whole),),
        copies=False,
    )


def Merge(theirs: Sequence[str], ours: str, dim: int = 0) -> Rule:
    """Several tensors of one shape joined along `dim`, in the given order (a fused qkv, for instance)."""
    return Rule(
        tuple(theirs),
        ours,
        join=lambda parts: _cat(parts, dim),
        split=lambda whole: _cut(whole, len(theirs), dim),
        cuts=True,
    )


def Interleave(
    theirs: Sequence[str], ours: str, order: Sequence[tuple[int, int]], num_chunks: int, dim: int = 0
) -> Rule:
    """Several tensors of one shape, each cut in `num_chunks` along `dim`, and the pieces joined in another order.

    Args:
        order: for each piece of ours, (index of their tensor, index of the piece in it); every piece exactly once.

    Raises:
        ValueError: `order` leaves a piece out or repeats one.
    """
    pieces = [(source, chunk) for source in range(len(theirs)) for chunk in range(num_chunks)]
    if sorted(order) != pieces:
        raise ValueError(f"order must hold each (tensor, chunk) of {len(theirs)} x {num_chunks} once, got {order}")

    def join(parts: Sequence[Tensor]) -> Tensor:
        chunks = [_cut(part, num_chunks, dim) for part in parts]
        return _cat([chunks[source][chunk] for source, chunk in order], dim)

    def split(whole: Tensor) -> list[Tensor]:
        placed = dict(zip(order, _cut(whole, len(order), dim), strict=True))
        return [_cat([placed[source, chunk] for chunk in range(num_chunks)], dim) for source in range(len(theirs))]

    return Rule(tuple(theirs), ours, join, split)


def to_internal(state: Mapping[str, Tensor], rules: Sequence[Rule]) -> dict[str, Tensor]:
    """Their state dict under our names.

    Raises:
        UserError: tensors that belong together do not fit together.
        ValueError: two tensors would get the same name.
    """
    translated: dict[str, Tensor] = {}
    for name, tensor in state.items():
        rule, names, our_name = _match_external(name, rules)
        if rule is None or not all(partner in state for partner in names):
            _put(translated, name, tensor)
        elif name == names[0]:  # the partners of a merge are joined when its first one is met
            parts = [state[partner] for partner in names]
            _put(translated, our_name, _fit(rule.join, parts, names))
    return translated


def to_external(state: Mapping[str, Tensor], rules: Sequence[Rule]) -> dict[str, Tensor]:
    """Our state dict under their names: the inverse of `to_ours`. The tensors may be views of ours.

    Raises:
        UserError: a tensor cannot be taken apart.
        ValueError: two tensors would get the same name.
    """
    translated: dict[str, Tensor] = {}
    for name, tensor in state.items():
        rule, names = _match_internal(name, rules)
        if rule is None:
            _put(translated, name, tensor)
        else:
            for their_name, part in zip(names, _fit(rule.split, tensor, [name]), strict=True):
                _put(translated, their_name, part)
    return translated


def external_names(name: str, rules: Sequence[Rule]) -> tuple[str, ...]:
    """What `name` of ours is called on their side: for messages about files in their naming."""
    rule, names = _match_internal(name, rules)
    return (name,) if rule is None else names


def join_tensor(name: str, rules: Sequence[Rule], parts: Sequence[Tensor]) -> Tensor:
    """Our tensor `name` of theirs alone, given in the order of `their_names`.

    Raises:
        UserError: tensors that belong together do not fit together.
    """
    rule, names = _match_internal(name, rules)
    return parts[0] if rule is None else _fit(rule.join, list(parts), names)


def join_into(name: str, rules: Sequence[Rule], parts: Sequence[Tensor], into: Tensor) -> None:
    """The same into memory that is there, cast on the way; what is merged is never joined in memory of its own.

    Raises:
        UserError: tensors that belong together do not fit together.
    """
    rule, _ = _match_internal(name, rules)
    pieces = rule.split(into) if rule is not None and rule.cuts else ()
    if [piece.shape for piece in pieces] == [part.shape for part in parts]:
        for piece, part in zip(pieces, parts, strict=True):
            piece.copy_(part)
    else:
        into.copy_(join_tensor(name, rules, parts))


def allocates(name: str, rules: Sequence[Rule]) -> bool:
    """Whether `make` gives our tensor `name` memory of its own."""
    rule, _ = _match_internal(name, rules)
    return rule is not None and rule.copies


def _match_external(name: str, rules: Iterable[Rule]) -> tuple[Rule | None, tuple[str, ...], str]:
    """The first rule whose left side fits `name`, all their names of that rule, and our name."""
    for rule in rules:
        for pattern in rule.theirs:
            if (fields := _match(pattern, name)) is not None:
                return rule, tuple(_fill(other, fields) for other in rule.theirs), _fill(rule.ours, fields)
    return None, (name,), name


def _match_internal(name: str, rules: Iterable[Rule]) -> tuple[Rule | None, tuple[str, ...]]:
    """The first rule whose right side fits `name`, and all their names of that rule."""
    for rule in rules:
        if (fields := _match(rule.ours, name)) is not None:
            return rule, tuple(_fill(pattern, fields) for pattern in rule.theirs)
    return None, (name,)


def _cut(tensor: Tensor, num_pieces: int, dim: int) -> tuple[Tensor, ...]:
    """`tensor` in equal pieces; `chunk` alone would hand out fewer or unequal ones without a word."""
    if tensor.shape[dim] % num_pieces:
        raise ValueError(f"{tensor.shape[dim]} does not divide by {num_pieces}")
    return tensor.chunk(num_pieces, dim)


def _cat(parts: Sequence[Tensor], dim: int) -> Tensor:
    if not parts[0].is_meta:
        return torch.cat(tuple(parts), dim)
    # Where only shapes are asked for, torch.cat would first import the compiler, for a second.
    shape = list(parts[0].shape)
    rest = [[*part.shape[:dim], *part.shape[dim + 1 :]] for part in parts]
    if any(other != rest[0] for other in rest):
        raise ValueError("sizes differ in another dimension than the one to join along")
    shape[dim] = sum(part.shape[dim] for part in parts)
    return torch.empty(shape, dtype=reduce(torch.promote_types, (part.dtype for part in parts)), device="meta")


def _put(state: dict[str, Tensor], name: str, tensor: Tensor) -> None:
    if name in state:
        raise ValueError(f"two tensors would both be called {name}")
    state[name] = tensor


def _fit(function: Callable, tensors: Tensor | list[Tensor], names: Sequence[str]):
    """`function(tensors)`, with one sentence where the shapes make it impossible."""
    try:
        return function(tensors)
    except (RuntimeError, ValueError, IndexError) as error:
        shapes = [list(tensor.shape) for tensor in ([tensors] if isinstance(tensors, Tensor) else tensors)]
        listed = ", ".join(f"{name} {shape}" for name, shape in zip(names, shapes, strict=True))
        raise UserError(f"the shapes of these weights do not fit this model: {listed}") from error


# `{n}` and friends, or the `.*` that may end a pattern.
_PLACEHOLDER = re.compile(r"\{(\w+)\}|\.\*$")


def _placeholders(pattern: str) -> set[str]:
    return {found.group() for found in _PLACEHOLDER.finditer(pattern)}


@lru_cache(maxsize=4096)
def _compile(pattern: str) -> re.Pattern[str]:
    expression, position, seen = "", 0, set()
    for found in _PLACEHOLDER.finditer(pattern):
        expression += re.escape(pattern[position : found.start()])
        field = found.group(1)
        if field is None:
            expression += r"\.(?P<_rest>.+)"
        else:
            expression += f"(?P={field})" if field in seen else rf"(?P<{field}>\d+)"
            seen.add(field)
        position = found.end()
    return re.compile(expression + re.escape(pattern[position:]))


def _match(pattern: str, name: str) -> dict[str, str] | None:
    found = _compile(pattern).fullmatch(name)
    return None if found is None else found.groupdict()


def _fill(pattern: str, fields: Mapping[str, str]) -> str:
    return _PLACEHOLDER.sub(lambda found: fields[found.group(1)] if found.group(1) else f".{fields['_rest']}", pattern)
