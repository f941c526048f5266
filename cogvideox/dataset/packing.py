"""Frame Pack (paper section 3.1): clips of different lengths are packed into rows with a fixed token budget.

Length buckets and padded batches are included for comparison.

Lengths are in tokens of text and video. All functions are deterministic, so every rank gets the same result. Imports no
torch.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from cogvideox.errors import UserError

PackedRow = tuple[int, ...]
"""Indices of the clips in a row."""

Packing = Literal["frame_pack", "buckets"]
"""Clips of a row: of all lengths ("frame_pack"), or of one length ("buckets", the usual baseline)."""


def has_full_rows(lengths: Sequence[int], budget: int, num_rows: int, packing: Packing) -> bool:
    """Return whether at least `num_rows` buckets are full. Always true with Frame Pack, which has no buckets."""
    if packing == "frame_pack":
        return True
    return sum(count // (budget // length) for length, count in Counter(lengths).items()) >= num_rows


def pack_rows(
    lengths: Sequence[int], budget: int, num_rows: int, packing: Packing, *, num_waiting: int = 0
) -> list[PackedRow]:
    """Pack clips into at most `num_rows` rows. Clips that do not fit are left out.

    Args:
        num_waiting: number of clips at the start of the list that were left out before.

    Raises:
        UserError: a clip is longer than a row.
    """
    if packing == "frame_pack":
        return first_fit_decreasing(lengths, budget, num_rows=num_rows, first=num_waiting)
    # Buckets in the order in which they fill, so that every clip is used eventually.
    return bucketed_batches(lengths, sorted(set(lengths)), budget)[:num_rows]


def first_fit_decreasing(
    lengths: Sequence[int], budget: int, *, num_rows: int | None = None, first: int = 0
) -> list[PackedRow]:
    """Pack clips into rows of at most `budget` tokens, longest first, each into the first row that fits (Johnson 1973).

    Args:
        num_rows: maximum number of rows; clips that do not fit are left out.
        first: number of clips at the start of the list that are placed before all later clips. Clip 0 is placed before
            all others, so that no clip is left out forever.

    Raises:
        UserError: a clip is longer than a row.
    """
    order = sorted(range(len(lengths)), key=lambda i: (i > 0 or not first, i >= first, -lengths[i], i))
    rows: list[list[int]] = []
    free: list[int] = []
    for i in order:
        if lengths[i] > budget:
            raise UserError(
                f"a clip of {lengths[i]} tokens does not fit in rows of {budget} tokens: set row_tokens={lengths[i]} "
                "or more"
            )
        row = next((k for k, num_free in enumerate(free) if num_free >= lengths[i]), None)
        if row is None:
            if num_rows is not None and len(rows) == num_rows:
                continue
            row = len(rows)
            rows.append([])
            free.append(budget)
        rows[row].append(i)
        free[row] -= lengths[i]
    return [tuple(clips) for clips in rows]


def padded_batches(lengths: Sequence[int], batch_size: int) -> list[PackedRow]:
    """Split clips into batches of consecutive clips, to be padded to the longest clip of each batch."""
    return [tuple(range(start, min(start + batch_size, len(lengths)))) for start in range(0, len(lengths), batch_size)]


def bucketed_batches(lengths: Sequence[int], edges: Sequence[int], budget: int) -> list[PackedRow]:
    """Batch clips by length bucket, in the order in which batches fill; a bucket's last batch may be smaller.

    Args:
        edges: maximum length of each bucket, ascending. Clips are padded to the edge of their bucket.
        budget: tokens per batch, padding included.

    Raises:
        UserError: a clip is longer than the last edge, or the last edge exceeds the budget.
    """
    longest = max(lengths, default=0)
    if longest > edges[-1] or edges[-1] > budget:
        raise UserError(
            f"bucket edges {list(edges)} do not fit: the last must be at least {longest} (the longest clip) and at "
            f"most {budget} (the budget)"
        )
    filling: dict[int, list[int]] = {edge: [] for edge in edges}
    batches = []
    for i, length in enumerate(lengths):
        edge = edges[bisect_left(edges, length)]
        filling[edge].append(i)
        if len(filling[edge]) == budget // edge:
            batches.append(tuple(filling[edge]))
            filling[edge] = []
    return batches + [tuple(batch) for batch in filling.values() if batch]


def packing_efficiency(rows: Sequence[PackedRow], lengths: Sequence[int], row_lengths: Sequence[int]) -> float:
    """Return the fraction of tokens that are not padding; `row_lengths` include padding."""
    return sum(lengths[i] for row in rows for i in row) / sum(row_lengths)


def balance_rows(costs: Sequence[int], num_ranks: int) -> list[list[int]]:
    """Assign the same number of rows to each rank at similar total cost. Return the rows of each rank in order.

    Rows are assigned in rounds, most expensive first, because ranks wait for each other in every round. In each round,
    the rank with the lowest total so far gets the most expensive row.

    Args:
        costs: cost of each row; for attention, the sum of the squared lengths of its clips.

    Raises:
        UserError: the number of rows is not a multiple of `num_ranks`.
    """
    if len(costs) % num_ranks:
        nearest = max(1, round(len(costs) / num_ranks)) * num_ranks
        raise UserError(
            f"run.batch_size={len(costs)}: the rows of a step cannot be divided evenly among {num_ranks} processes; "
            f"the nearest valid number is {nearest}"
        )
    order = sorted(range(len(costs)), key=lambda k: (-costs[k], k))
    ranks: list[list[int]] = [[] for _ in range(num_ranks)]
    total = [0] * num_ranks
    for start in range(0, len(costs), num_ranks):
        by_total = sorted(range(num_ranks), key=lambda rank: (total[rank], rank))
        for rank, row in zip(by_total, order[start : start + num_ranks]):
            ranks[rank].append(row)
            total[rank] += costs[row]
    return ranks
