"""How sentences about many tensors count and name them."""

from collections.abc import Sequence


def count(things: Sequence[str], noun: str) -> str:
    """`3 tensors`."""
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"


def some(things: Sequence[str], limit: int = 4) -> str:
    """The first few, and dots if there are more."""
    return ", ".join(things[:limit]) + (", ..." if len(things) > limit else "")
