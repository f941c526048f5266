"""Clip counts per stage of the funnel, and distributions of the manifest's columns."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cogvideox.curation.manifest import DROPPED, OK, PENDING, stage_records

if TYPE_CHECKING:
    import pyarrow as pa

_FILE_STAGES = ("probe", "split")
_BINS = 24
_VARIABLE = re.compile(r"\b(copy of|duplicate of|reason:) .*|\b[0-9a-f]{16,}\b|\d+(\.\d+)?")


@dataclass(frozen=True)
class Step:
    """One stage of the funnel.

    Attributes:
        name: name of the stage.
        rows, hours: number and duration of the clips that passed the stage.
        reasons: number of clips that failed or were dropped at this stage, by reason, most frequent first.
        examples: indices of up to four manifest rows per reason.
    """

    name: str
    rows: int
    hours: float
    reasons: dict[str, int]
    examples: dict[str, list[int]]


@dataclass(frozen=True)
class Funnel:
    """The funnel of a manifest.

    Attributes:
        num_files: number of raw files.
        lost_files: number of files without clips, by reason.
        file_hours: total duration of the files with a known duration.
        steps: the stages in order; the first is the split into clips.
        pending: number of unprocessed rows.
    """

    num_files: int
    lost_files: dict[str, int]
    file_hours: float
    steps: list[Step]
    pending: int


@dataclass(frozen=True)
class Distribution:
    """Distribution of a numeric column over the rows that have a value.

    Attributes:
        edges: edges of the bins from the 1st to the 99th percentile; values outside are in the first or last bin.
        counts: number of rows per bin.
        lowest, highest: indices of the manifest rows with the lowest and highest values.
    """

    name: str
    unit: str
    description: str
    mean: float
    percentiles: dict[int, float]
    edges: list[float]
    counts: list[int]
    lowest: list[int]
    highest: list[int]
    missing: int


def funnel(table: "pa.Table") -> Funnel:
    """Count the clips that passed each stage, and the clips that failed or were dropped at each stage."""
    status, stage, reason = (table[name].to_pylist() for name in ("status", "stage", "reason"))
    hours = np.nan_to_num(np.array(table["seconds"].to_pylist(), dtype=np.float64)) / 3600
    is_clip = np.array([index is not None for index in table["index"].to_pylist()], dtype=bool)
    order = [*(name for name in stage_records(table) if name != "cogvideox")]
    order = [name for name in ("probe", "split", "cut") if name in order] + [
        name for name in order if name not in ("probe", "split", "cut", "duplicates", "keep")
    ]
    order += ["duplicates", "keep"]
    failed_rows: dict[str, list[int]] = defaultdict(list)
    pending = 0
    for row, (state, name) in enumerate(zip(status, stage)):
        if state == PENDING:
            pending += 1
        elif state != OK:
            failed_rows[name].append(row)
    lost_rows = [row for name in _FILE_STAGES for row in failed_rows[name] if not is_clip[row]]
    steps = []
    present = is_clip.copy()
    for row, state in enumerate(status):
        present[row] &= state != PENDING
    steps.append(Step("clips found", int(present.sum()), float(hours[present].sum()), {}, {}))
    for name in order[1:]:
        rows = [row for row in failed_rows[name] if is_clip[row]]
        present[rows] = False
        reasons, examples = _by_reason(rows, reason)
        steps.append(Step(name, int(present.sum()), float(hours[present].sum()), reasons, examples))
    lost_files, _ = _by_reason(lost_rows, reason)
    sources, seconds = table["source"].to_pylist(), table["file_seconds"].to_pylist()
    file_hours = sum(value or 0.0 for value in dict(zip(sources, seconds)).values()) / 3600
    return Funnel(len(set(sources)), lost_files, file_hours, steps, pending)


def distributions(table: "pa.Table", num_extremes: int = 4) -> list[Distribution]:
    """Return the distribution of every signal column and of the duration, over the measured clips."""
    status, index = table["status"].to_pylist(), table["index"].to_pylist()
    measured = np.array([state in (OK, DROPPED) and number is not None for state, number in zip(status, index)])
    result = []
    for field in table.schema:
        if "." not in field.name and field.name not in ("seconds", "fps", "height"):
            continue
        if str(field.type) not in ("double", "int64", "bool"):
            continue
        values = np.array(table[field.name].to_pylist(), dtype=np.float64)
        values[~measured] = np.nan
        rows = np.flatnonzero(np.isfinite(values))
        if not len(rows):
            continue
        details = {key.decode(): value.decode() for key, value in (field.metadata or {}).items()}
        known = values[rows]
        low, high = np.percentile(known, [1, 99])
        high = high if high > low else low + 1
        counts, edges = np.histogram(known.clip(low, high), bins=_BINS, range=(low, high))
        ranked = rows[np.argsort(known, kind="stable")]
        result.append(
            Distribution(
                name=field.name,
                unit=details.get("unit", ""),
                description=details.get("description", ""),
                mean=float(known.mean()),
                percentiles={level: float(np.percentile(known, level)) for level in (5, 25, 50, 75, 95)},
                edges=edges.tolist(),
                counts=counts.tolist(),
                lowest=ranked[:num_extremes].tolist(),
                highest=ranked[::-1][:num_extremes].tolist(),
                missing=int(measured.sum()) - len(rows),
            )
        )
    return result


def _by_reason(rows: Sequence[int], reason: Sequence[Any]) -> tuple[dict[str, int], dict[str, list[int]]]:
    """Group rows by reason, ignoring names and numbers in the reason."""
    groups: dict[str, list[int]] = defaultdict(list)
    for row in rows:
        groups[short_reason(reason[row])].append(row)
    counts = Counter({name: len(members) for name, members in groups.items()})
    ordered = [name for name, _ in counts.most_common()]
    return {name: counts[name] for name in ordered}, {name: groups[name][:4] for name in ordered}


def short_reason(reason: str | None) -> str:
    """Return a reason without row-specific parts: names of files, and numbers in error messages."""
    text = reason or "unknown"
    if text.startswith("shorter than"):
        return text
    return _VARIABLE.sub(lambda match: match[1] + " another" if match[1] else "#", text)[:120]


def format_funnel(result: Funnel) -> str:
    """Format the funnel as text."""
    lines = [f"files       {result.num_files:>10,}  {result.file_hours:>10.2f} h"]
    lines += [f"{'':<12}{-number:>10,}  {reason}" for reason, number in result.lost_files.items()]
    first = max(result.steps[0].rows, 1)
    for step in result.steps:
        lines.append(f"{step.name:<12}{step.rows:>10,}  {step.hours:>10.2f} h  {step.rows / first:>7.1%}")
        lines += [f"{'':<12}{-number:>10,}  {reason}" for reason, number in step.reasons.items()]
    if result.pending:
        lines.append(f"{'pending':<12}{result.pending:>10,}  not processed yet")
    return "\n".join(lines)
