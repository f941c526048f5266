"""How clips of different lengths share batches: packed into rows (paper section 3.1, "frame pack"), or, to compare,
padded to the longest, or padded to the longest of a bucket of similar ones.

Lengths are in tokens, text and video together. Rows are tuples of numbers of clips. All of this is arithmetic on
lengths, the same on every rank. Imports no torch.
"""

from bisect import bisect_left
from collections.abc import Sequence

from cogvideox.errors import UserError

Row = tuple[int, ...]
"""Clips that are computed together, by their numbers."""


def first_fit_decreasing(
    lengths: Sequence[int], budget: int, *, num_rows: int | None = None, first: int = 0
) -> list[Row]:
    """Rows of at most `budget` tokens: clips go, the longest first, into the first row that has room (Johnson 1973).

    Args:
        num_rows: no more rows than these; what then finds no place is in none of them.
        first: so many clips at the front go before all others, and the very first of them before those: none is then
            left over for ever.

    Raises:
        UserError: a clip is longer than a row.
    """
    order = sorted(range(len(lengths)), key=lambda i: (i > 0 or not first, i >= first, -lengths[i], i))
    rows: list[list[int]] = []
    room: list[int] = []
    for i in order:
        if lengths[i] > budget:
            raise UserError(f"a clip of {lengths[i]} tokens does not fit into rows of {budget}; that is the least")
        place = next((k for k, left in enumerate(room) if left >= lengths[i]), None)
        if place is None:
            if num_rows is not None and len(rows) == num_rows:
                continue
            place = len(rows)
            rows.append([])
            room.append(budget)
        rows[place].append(i)
        room[place] -= lengths[i]
    return [tuple(row) for row in rows]


def padded(lengths: Sequence[int], batch_size: int) -> list[Row]:
    """Batches of clips in their order, each of which is padded to its longest."""
    return [tuple(range(start, min(start + batch_size, len(lengths)))) for start in range(0, len(lengths), batch_size)]


def bucketed(lengths: Sequence[int], edges: Sequence[int], budget: int) -> list[Row]:
    """Batches of clips of one bucket each, in the order in which they fill up; the last of each bucket may be smaller.

    Args:
        edges: ascending; a bucket takes clips longer than the edge before and up to its own, to which they are padded.
        budget: tokens of a batch, padding included.

    Raises:
        UserError: a clip is longer than the last edge, or that is more than the budget.
    """
    longest = max(lengths, default=0)
    if longest > edges[-1] or edges[-1] > budget:
        raise UserError(f"clips of up to {longest} tokens need a bucket as long, and a budget of that: {list(edges)}")
    filling: dict[int, list[int]] = {edge: [] for edge in edges}
    batches = []
    for i, length in enumerate(lengths):
        edge = edges[bisect_left(edges, length)]
        filling[edge].append(i)
        if len(filling[edge]) == budget // edge:
            batches.append(tuple(filling[edge]))
            filling[edge] = []
    return batches + [tuple(rest) for rest in filling.values() if rest]


def useful_share(rows: Sequence[Row], lengths: Sequence[int], row_lengths: Sequence[int]) -> float:
    """Tokens of clips over tokens that are made room for: `row_lengths` for each row, padding included."""
    return sum(lengths[i] for row in rows for i in row) / sum(row_lengths)


def balance(costs: Sequence[int], num_ranks: int) -> list[list[int]]:
    """Which rows each rank takes, in the order in which it takes them: as many for each, and about the same cost.

    Rows are dealt in rounds, the most expensive first, because ranks wait for each other in every round; in a round the
    rank that has the least so far gets the most expensive.

    Args:
        costs: of each row; attention costs the sum of the squared lengths of its clips.

    Raises:
        UserError: the rows do not divide among the ranks.
    """
    if len(costs) % num_ranks:
        nearest = max(1, round(len(costs) / num_ranks)) * num_ranks
        raise UserError(
            f"{len(costs)} rows of a step do not divide among {num_ranks} processes; the nearest is {nearest}"
        )
    order = sorted(range(len(costs)), key=lambda k: (-costs[k], k))
    ranks: list[list[int]] = [[] for _ in range(num_ranks)]
    total = [0] * num_ranks
    for start in range(0, len(costs), num_ranks):
        free = sorted(range(num_ranks), key=lambda rank: (total[rank], rank))
        for rank, row in zip(free, order[start : start + num_ranks]):
            ranks[rank].append(row)
            total[rank] += costs[row]
    return ranks
