"""Groups of near-duplicates, of which one clip per group is kept."""

import numpy as np
from jaxtyping import Bool, Float64

from cogvideox.filter_policy.rows import Rows

DUPLICATE_OF = "duplicate_of"
"""Column with the id of the clip that curation keeps in place of a near-duplicate."""


class DuplicateGroups:
    """Rows with near-duplicates, sorted by group; within a group, the clip that curation keeps comes first.

    Attributes:
        members: row index of each member.
        group: group number of each member.
        clip: number of each member's clip; a latent store may have several windows of a clip.
    """

    def __init__(self, rows: Rows) -> None:
        original, ids = rows.strings(DUPLICATE_OF), rows.ids
        is_copy = original != ""
        if ids is None:
            ids = np.arange(rows.num_rows).astype(str)
        heads = {*original[is_copy].tolist()}
        is_head = np.fromiter((id in heads for id in ids.tolist()), bool, rows.num_rows)
        members = np.flatnonzero(is_copy | is_head)
        _, group = np.unique(np.where(is_copy, original, ids)[members], return_inverse=True)
        _, clip = np.unique(ids[members], return_inverse=True)
        order = np.lexsort((members, is_copy[members], group))
        self.members, self.group, self.clip = members[order], group[order], clip[order]

    def drop(self, kept: Bool[np.ndarray, " rows"]) -> Bool[np.ndarray, " rows"]:
        """Return the mask restricted to one clip per group: the first clip of the group that the mask keeps."""
        passing = kept[self.members]
        members, group, clip = self.members[passing], self.group[passing], self.clip[passing]
        if not len(members):
            return kept
        is_first = np.r_[True, group[1:] != group[:-1]]
        chosen = clip[is_first][np.cumsum(is_first) - 1]
        kept = kept.copy()
        kept[members[clip != chosen]] = False
        return kept

    def best(self, values: Float64[np.ndarray, " rows"]) -> Float64[np.ndarray, " rows"]:
        """Return the values with all but the highest of each group replaced by -inf."""
        values = values.copy()
        member_values = values[self.members]
        order = np.lexsort((-member_values, self.group))
        is_first = np.r_[True, self.group[order][1:] != self.group[order][:-1]] if len(order) else order.astype(bool)
        values[self.members[order[~is_first]]] = -np.inf
        return values
