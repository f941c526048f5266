"""Selection of rows: a policy applied to a table of clips, at any training step."""

import hashlib
import json
import zlib

import numpy as np
from jaxtyping import Bool, Int

from cogvideox.config import to_dict
from cogvideox.filter_policy.duplicates import DuplicateGroups
from cogvideox.filter_policy.policy import Balance, Policy
from cogvideox.filter_policy.resolve import resolve
from cogvideox.filter_policy.rows import Columns, Rows
from cogvideox.filter_policy.schedule import grid


class Selector:
    """Selector of the rows that a policy keeps at each step.

    Attributes:
        rows: the rows to select from.
        policy: the resolved policy.

    Raises:
        UserError: a numeric bound refers to a column of strings.
    """

    def __init__(self, policy: Policy, columns: Columns, num_rows: int) -> None:
        self.rows = Rows(columns, num_rows)
        self.policy = resolve(policy, self.rows)
        self.groups = DuplicateGroups(self.rows) if policy.drop_duplicates else None
        self.clusters = None if policy.balance is None else Clusters(policy.balance, self.rows)
        self._last: tuple[tuple, np.ndarray] | None = None

    def thresholds(self, step: int) -> tuple:
        """Return the limits of all bounds at a step; the mask is the same at steps with the same limits."""
        bounds = enumerate(self.policy.conditions)
        return tuple((number, *bound.limits_at(step)) for number, bound in bounds if bound.applies_at(step))

    def mask(self, step: int) -> Bool[np.ndarray, " rows"]:
        """Return a mask of the rows that are kept at a step. The same array is returned until the mask changes."""
        thresholds = self.thresholds(step)
        if self._last is None or self._last[0] != thresholds:
            kept = np.ones(self.rows.num_rows, dtype=bool)
            for bound in self.policy.conditions:
                kept &= bound.mask(self.rows, step)
            if self.groups is not None:
                kept = self.groups.drop(kept)
            if self.clusters is not None:
                kept = self.clusters.limit(kept)
            if self._last is not None and np.array_equal(kept, self._last[1]):
                kept = self._last[1]
            self._last = thresholds, kept
        return self._last[1]

    def mask_between(self, first: int, last: int) -> Bool[np.ndarray, " rows"]:
        """Return a mask of the rows that may pass at some step between two sampled steps (a superset)."""
        kept = np.ones(self.rows.num_rows, dtype=bool)
        for bound in self.policy.conditions:
            kept &= bound.between(first, last).mask(self.rows, first)
        kept = kept if self.groups is None else self.groups.drop(kept)
        return kept if self.clusters is None else self.clusters.limit(kept)

    def sample_steps(self) -> list[int]:
        """Return the knots of all thresholds, and steps between the knots."""
        knots = self.policy.knots
        return sorted({*knots, *grid((knots[-1],))})

    def digest(self) -> str:
        """Return a hash of the policy and of the column values that it reads, to detect changes when a run resumes."""
        rows, hashes = self.rows, {}
        for name in self.policy.columns:
            strings = any(bound.among for bound in self.policy.conditions if bound.column == name)
            is_cluster = self.policy.balance is not None and name == self.policy.balance.column
            values = rows.strings(name) if strings or is_cluster else rows.numbers(name)
            hashes[name] = hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()
        if self.groups is not None and len(self.groups.members):
            groups = (self.groups.members, self.groups.group, self.groups.clip)
            hashes["near-duplicates"] = hashlib.sha256(b"".join(array.tobytes() for array in groups)).hexdigest()
        record = json.dumps([to_dict(self.policy), rows.num_rows, hashes], sort_keys=True)
        return hashlib.sha256(record.encode()).hexdigest()[:16]


class Clusters:
    """Cluster of each row, and the order in which the rows of a cluster are kept.

    Attributes:
        cluster: cluster index of each row; -1 for rows without a cluster, which are not limited.
        order: row indices sorted by cluster, and within a cluster by priority, highest first.
    """

    def __init__(self, balance: Balance, rows: Rows) -> None:
        self.balance = balance
        names = rows.strings(balance.column)
        _, cluster = np.unique(names, return_inverse=True)
        self.cluster: Int[np.ndarray, " rows"] = np.where(names == "", -1, cluster)
        if balance.prefer is None:
            ids = rows.ids if rows.ids is not None else np.arange(rows.num_rows).astype(str)
            rank = np.array([zlib.crc32(id.encode()) for id in ids.tolist()], dtype=np.float64)
        else:
            values = rows.numbers(balance.prefer)
            rank = np.where(np.isnan(values), np.inf, -values)
        order = np.lexsort((np.arange(rows.num_rows), rank, self.cluster))
        self.order = order[self.cluster[order] >= 0]

    def limit(self, kept: Bool[np.ndarray, " rows"]) -> Bool[np.ndarray, " rows"]:
        """Return the mask restricted to at most `cap` rows per cluster."""
        cap = self.cap(kept)
        rows = self.order[kept[self.order]]
        cluster = self.cluster[rows]
        starts = np.flatnonzero(np.r_[True, cluster[1:] != cluster[:-1]]) if len(rows) else np.zeros(0, dtype=int)
        lengths = np.diff(np.r_[starts, len(rows)])
        position = np.arange(len(rows)) - np.repeat(starts, lengths)
        kept = kept.copy()
        kept[rows[position >= cap]] = False
        return kept

    def cap(self, kept: Bool[np.ndarray, " rows"]) -> int:
        """Return the largest number of rows per cluster for which no cluster exceeds the maximum fraction."""
        sizes = np.bincount(self.cluster[kept & (self.cluster >= 0)])
        sizes = np.sort(sizes[sizes > 0])
        if not len(sizes):
            return 0
        unlimited = int((kept & (self.cluster < 0)).sum())
        fraction = max(self.balance.max_fraction, 1 / len(sizes))
        low, high = int(sizes[0]), int(sizes[-1])
        while low < high:  # the fraction of a full cluster grows with the cap
            cap = (low + high + 1) // 2
            fits = cap <= fraction * (unlimited + np.minimum(sizes, cap).sum()) * (1 + 1e-12)
            low, high = (cap, high) if fits else (low, cap - 1)
        return low
