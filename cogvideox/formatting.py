"""Formatting of counts, lists of names and sizes in messages."""

from collections.abc import Sequence


def pluralize(items: Sequence[str], noun: str) -> str:
    """Format the number of items with a noun: "1 tensor", "3 tensors"."""
    return f"{len(items)} {noun}{'' if len(items) == 1 else 's'}"


def abbreviate(items: Sequence[str], limit: int = 4) -> str:
    """List the first `limit` items, followed by dots if there are more."""
    return ", ".join(items[:limit]) + (", ..." if len(items) > limit else "")


def format_bytes(num_bytes: int) -> str:
    """Format a size in decimal units: "3.39 GB"."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if num_bytes >= unit:
            return f"{num_bytes / unit:.3g} {name}"
    return f"{num_bytes} bytes"


def format_gib(num_bytes: int) -> str:
    """Format a memory size in GiB, MiB or KiB: "11.5 GiB", "300 MiB", "240 KiB"."""
    if 0 < num_bytes < 2**20:
        return f"{num_bytes / 2**10:.0f} KiB"
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.0f} MiB"


def format_duration(seconds: float | int) -> str:
    """Format a duration in seconds, minutes or hours: "45 s", "12 min", "1.5 h"."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
