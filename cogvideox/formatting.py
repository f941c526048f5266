"""Formatting of counts, lists of names and sizes in messages."""

from collections.abc import Sequence


def pluralize(items: Sequence[str], noun: str) -> str:
    """The number of items with the noun: "1 tensor", "3 tensors"."""
    return f"{len(items)} {noun}{'' if len(items) == 1 else 's'}"


def abbreviate(items: Sequence[str], limit: int = 4) -> str:
    """The first `limit` items, followed by dots if there are more."""
    return ", ".join(items[:limit]) + (", ..." if len(items) > limit else "")


def format_bytes(num_bytes: int) -> str:
    """A size in decimal units: "3.39 GB"."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if num_bytes >= unit:
            return f"{num_bytes / unit:.3g} {name}"
    return f"{num_bytes} bytes"
