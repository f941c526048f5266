"""How sentences about many tensors count, name and size them."""

from collections.abc import Sequence


def pluralize(things: Sequence[str], noun: str) -> str:
    """`3 tensors`."""
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"


def abbreviate(things: Sequence[str], limit: int = 4) -> str:
    """The first few, and dots if there are more."""
    return ", ".join(things[:limit]) + (", ..." if len(things) > limit else "")


def format_bytes(num_bytes: int) -> str:
    """`3.39 GB`."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if num_bytes >= unit:
            return f"{num_bytes / unit:.3g} {name}"
    return f"{num_bytes} bytes"
