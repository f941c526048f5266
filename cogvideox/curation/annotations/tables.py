"""Import and export of annotations as CSV and Parquet: a row per valid annotation, a column per label."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cogvideox.atomic_io import atomic_write
from cogvideox.curation.annotations.label_studio import append_new
from cogvideox.curation.annotations.store import AnnotationStore, Event
from cogvideox.curation.labels.definitions import DEFINITIONS_VERSION, LABELS
from cogvideox.errors import UserError
from cogvideox.untrusted.files import reading

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = (".csv", ".parquet")


def annotation_table(store: AnnotationStore) -> "pa.Table":
    """Return the valid annotations and gold items as a table with a column per event attribute and per label.

    The column `consent` is the time of the annotator's consent; null without one.
    """
    import pyarrow as pa

    gold, consents = store.gold(), store.consents()
    events = store.annotations()
    events += [event for event in store.events() if event.kind == "gold" and gold.get(event.clip_id) == event.labels]
    columns: dict[str, Any] = {
        name: pa.array([getattr(event, name) for event in events], pa.string())
        for name in ("kind", "clip_id", "annotator")
    }
    columns |= {name: pa.array([name in event.labels for event in events], pa.bool_()) for name in LABELS}
    columns["time"] = pa.array([event.time for event in events], pa.string())
    columns["seconds"] = pa.array([event.seconds for event in events], pa.float64())
    columns["definitions"] = pa.array([event.definitions for event in events], pa.int64())
    columns["consent"] = pa.array([consents.get(event.annotator) for event in events], pa.string())
    return pa.table(columns)


def export_table(store: AnnotationStore, path: str | Path) -> int:
    """Write the valid annotations as CSV or Parquet, depending on the file suffix, and return their number."""
    from pyarrow import csv, parquet

    path, table = Path(path), annotation_table(store)
    with atomic_write(path) as temporary:
        if path.suffix == ".parquet":
            parquet.write_table(table, temporary)
        else:
            csv.write_csv(table, temporary)
    return len(table)


def import_table(store: AnnotationStore, path: str | Path) -> int:
    """Append the annotations of a CSV or Parquet file, and return the number of new annotations.

    Required columns are clip_id, annotator and at least one label; label columns contain true or false (missing means
    false). The columns kind, time, seconds, definitions and consent are optional.

    Raises:
        UserError: the file is damaged, lacks a column, or has an invalid value.
    """
    import pyarrow as pa
    from pyarrow import csv, parquet

    path = Path(path)
    with reading(path, "damaged, or not an annotation table"):
        names = csv.ConvertOptions(column_types={"clip_id": pa.string(), "annotator": pa.string()})
        table = parquet.read_table(path) if path.suffix == ".parquet" else csv.read_csv(path, convert_options=names)
    if missing := [name for name in ("clip_id", "annotator") if name not in table.column_names]:
        raise UserError(f"cannot read {path}: it has no column {' and '.join(missing)}")
    if not set(LABELS) & set(table.column_names):
        raise UserError(f"cannot read {path}: it has no label column; the labels are {', '.join(LABELS)}")
    events, consents = [], {}
    with reading(path, "not an annotation table"):
        for row in table.to_pylist():
            labels = tuple(name for name in LABELS if _is_true(row.get(name), name))
            time = str(row["time"]) if row.get("time") else ""
            events.append(
                Event(
                    *(0, row.get("kind") or "annotation", str(row["clip_id"] or ""), str(row["annotator"] or "")),
                    *(labels, time, row.get("seconds"), row.get("definitions") or DEFINITIONS_VERSION),
                )
            )
            if consent := row.get("consent"):
                consents[events[-1].annotator] = str(consent)
    return append_new(store, events, consents)


def _is_true(value: Any, name: str) -> bool:
    if value in (None, "", 0, 1, False, True):
        return bool(value)
    if str(value).lower() in ("true", "false"):
        return str(value).lower() == "true"
    raise UserError(f"{name}={value!r} must be true or false")
