"""Select clips from a manifest by a policy, and write two files:

metadata.parquet   the clips that pass at some step, with all scores; `encode` and `train` read it
policy.yaml        the policy with its quantiles resolved to values, for `train --policy`
"""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool

from cogvideox import config
from cogvideox.atomic_io import atomic_write
from cogvideox.curation.assemble import KEEP, METADATA, training_table
from cogvideox.curation.clusters import CLUSTER, Clustering, cluster_names
from cogvideox.curation.manifest import DROPPED, OK, manifest_path, read_manifest, read_schema, scalar_columns
from cogvideox.curation.run import RUN
from cogvideox.errors import UserError
from cogvideox.filter_policy.duplicates import DUPLICATE_OF
from cogvideox.filter_policy.policy import Policy
from cogvideox.filter_policy.selector import Selector
from cogvideox.untrusted.files import read_json

if TYPE_CHECKING:
    import pyarrow as pa

POLICY = "policy.yaml"
_ROW_COLUMNS = ("status", "stage", "seconds", "is_image")
_BATCH = 50_000


@dataclass(frozen=True)
class KeptAt:
    """Clips that a policy keeps at a step.

    Attributes:
        step: training step.
        clips: number of kept clips.
        hours: total duration of the kept clips.
        by_column: number of clips that pass the bounds on each column, ignoring all other bounds.
    """

    step: int
    clips: int
    hours: float
    by_column: dict[str, int]


class ManifestSelector:
    """A policy applied to the measured clips of a manifest: usable clips, and clips that curation dropped as
    near-duplicates or by its own bounds (`keep`).

    Args:
        clustering: settings for computing the column "cluster"; None uses the manifest's column if the policy needs it.

    Attributes:
        policy: the policy, as it was passed.
        selector: selector over the measured clips.
        rows: manifest row index of each measured clip.
        seconds: duration of each measured clip; 0 for images.
        clusters: cluster of each measured clip; None unless `clustering` is set.

    Raises:
        UserError: the manifest cannot be read, or a column of the policy is missing or empty.
    """

    def __init__(self, manifest: str | Path, policy: Policy, clustering: Clustering | None = None) -> None:
        self.path, self.policy = manifest_path(manifest), policy
        existing = read_schema(manifest).names
        policy.check_columns(existing if clustering is None else [*existing, CLUSTER])
        names = {*_ROW_COLUMNS, *policy.columns}
        names |= {"id", DUPLICATE_OF} if policy.drop_duplicates or policy.balance else set()
        table = read_manifest(manifest, names)
        self.rows = np.flatnonzero(is_measured(table))
        if not len(self.rows):
            raise UserError(
                f"{self.path} has no measured clips: `cogvideox funnel {self.path.parent}` shows where they were "
                "dropped"
            )
        table = table.take(self.rows)
        columns = {name: _array(table[name]) for name in table.column_names if name not in ("status", "stage")}
        if clustering is not None:
            columns[CLUSTER] = cluster_names(manifest, clustering)[self.rows]
        self.clusters = columns[CLUSTER] if clustering is not None else None
        self.seconds = np.nan_to_num(np.asarray(columns["seconds"], dtype=np.float64))
        for name in policy.columns:
            if name in table.column_names and table[name].null_count == len(table):
                raise UserError(
                    f"no clip of {self.path} has a value of {name}: run its stage, or remove its bound from the policy"
                )
        self.selector = Selector(policy, columns, len(self.rows))

    def kept_at(self, step: int) -> KeptAt:
        """Count the clips that the policy keeps at a step."""
        selector, mask = self.selector, self.selector.mask(step)
        by_column: dict[str, np.ndarray] = {}
        for bound in selector.policy.conditions:
            by_column[bound.column] = by_column.get(bound.column, True) & bound.mask(selector.rows, step)
        counts = {column: int(kept.sum()) for column, kept in by_column.items()}
        return KeptAt(step, int(mask.sum()), float(self.seconds[mask].sum()) / 3600, counts)

    def selected(self, step: int | None) -> Bool[np.ndarray, " clips"]:
        """Return a mask of the clips that pass at a step, or at any step if `step` is None."""
        selected = np.zeros(len(self.rows), dtype=bool)
        steps = self.selector.sample_steps() if step is None else [step]
        for at in steps:
            selected |= self.selector.mask(at)
        for first, last in pairwise(steps):
            if last > first + 1:  # thresholds jump only between neighboring steps
                selected |= self.selector.mask_between(first, last)
        return selected

    def find(self, clip: str) -> int:
        """Return the index of a clip, found by its id, a prefix of its id, or its file name.

        Raises:
            UserError: no clip or more than one clip matches, or the clip was not measured.
        """
        table = read_manifest(self.path, ("id", "source", "status", "stage", "reason"))
        ids, sources = (table[name].to_pylist() for name in ("id", "source"))
        matches = [row for row, (id, source) in enumerate(zip(ids, sources)) if id.startswith(clip) or source == clip]
        if not matches:
            raise UserError(f"{self.path} has no clip {clip}: pass a clip id, the beginning of an id, or a file name")
        if len(matches) > 1:
            names = ", ".join(ids[row] for row in matches[:4])
            raise UserError(f"{clip} matches {len(matches)} clips: pass one of the ids {names}")
        index = np.flatnonzero(self.rows == matches[0])
        if not len(index):
            status, stage, reason = (table[name][matches[0]].as_py() for name in ("status", "stage", "reason"))
            raise UserError(f"{clip} was not measured ({status} at stage {stage}){f': {reason}' if reason else ''}")
        return int(index[0])

    def write(self, output: Path, step: int | None, raw: Path | None = None) -> int:
        """Write the table of the selected clips and the resolved policy, and return the number of clips.

        Args:
            step: training step; None selects the clips that pass at any step.
            raw: folder of the raw files; None uses the folder recorded by curation.

        Raises:
            UserError: no clip is selected, the raw folder is not known, or a file cannot be written.
        """
        import pyarrow as pa
        from pyarrow import parquet

        selected = self.rows[self.selected(step)]
        if not len(selected):
            raise UserError("the policy keeps no clips: relax its bounds")
        raw = raw or self._raw_folder()
        output.mkdir(parents=True, exist_ok=True)
        with atomic_write(output / METADATA) as temporary, parquet.ParquetFile(self.path) as file:
            writer, start = None, 0
            for batch in file.iter_batches(_BATCH, columns=scalar_columns(self.path)):
                inside = selected[(selected >= start) & (selected < start + batch.num_rows)] - start
                chosen = pa.table(batch).take(inside)
                if self.clusters is not None:
                    names = self.clusters[np.searchsorted(self.rows, inside + start)].tolist()
                    chosen = _replace(chosen, CLUSTER, pa.array(names, pa.string()))
                start += batch.num_rows
                table = self._training_table(chosen, raw, output)
                writer = writer or parquet.ParquetWriter(temporary, table.schema, compression="zstd")
                writer.write_table(table)
            assert writer is not None
            writer.close()
        config.save(self.selector.policy, output / POLICY)
        return len(selected)

    def _training_table(self, table: "pa.Table", raw: Path, output: Path) -> "pa.Table":
        rows = training_table(table, raw, self.path.parent, output)
        policy = self.selector.policy
        strings = {bound.column for bound in policy.conditions if bound.among}
        if policy.drop_duplicates or policy.balance is not None:
            rows = rows.append_column("clip", table["id"])
        if policy.drop_duplicates:
            strings.add(DUPLICATE_OF)
        if policy.balance is not None:
            strings.add(policy.balance.column)
        for name in sorted(strings - {*rows.column_names}):
            rows = rows.append_column(name, table[name])
        return rows

    def _raw_folder(self) -> Path:
        try:
            return self.path.parent / read_json(self.path.parent / RUN)["raw"]
        except (UserError, KeyError, TypeError):  # missing or damaged
            raise UserError(
                f"{self.path.parent} does not record the folder of the raw files: pass it with --raw"
            ) from None


def is_measured(table: "pa.Table") -> Bool[np.ndarray, " rows"]:
    """Return a mask of the measured clips, from which a policy selects."""
    status, stage = (np.asarray(table[name].cast("string").to_numpy()).astype("U10") for name in ("status", "stage"))
    return (status == OK) | ((status == DROPPED) & np.isin(stage, ("duplicates", KEEP)))


def _replace(table: "pa.Table", name: str, values: "pa.Array") -> "pa.Table":
    """Return a table with a column replaced or added."""
    return (table.drop_columns([name]) if name in table.column_names else table).append_column(name, values)


def _array(column: "pa.ChunkedArray") -> np.ndarray:
    """Convert a column to numbers with NaN for missing values, or to an array of objects."""
    import pyarrow as pa

    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        return column.cast(pa.float64(), safe=False).to_numpy()
    return column.to_numpy()
