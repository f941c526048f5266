"""Report on label classifiers as one self-contained HTML page, with thumbnails of the largest errors."""

import base64
import html
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cogvideox.atomic_io import write_text
from cogvideox.curation.labels.definitions import LABELS
from cogvideox.curation.labels.report import HEADER, LabelReport, table_rows
from cogvideox.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

PAGE = "labels.html"
_STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 1100px; padding: 0 1rem; color: #1c2733; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; border-bottom: 1px solid #d5dde5; }
table { border-collapse: collapse; } td, th { padding: 2px 8px; text-align: right; font-variant-numeric: tabular-nums; }
td:nth-child(-n+2), th:nth-child(-n+2) { text-align: left; } tr.paper td { color: #6a7885; }
tr.first td { border-top: 1px solid #d5dde5; } p { max-width: 48rem; }
.shots { display: flex; flex-wrap: wrap; gap: 8px; } figure { margin: 0; max-width: 340px; }
figure img { display: block; max-width: 100%; border-radius: 3px; }
figcaption { font-size: 11px; color: #52616f; overflow-wrap: anywhere; }
.none { display: inline-block; width: 96px; height: 54px; background: #e6ebf0; border-radius: 3px; }
@media (prefers-color-scheme: dark) {
  body { background: #14191f; color: #dbe3ea; } td, h2 { border-color: #33404d !important; }
  figcaption, tr.paper td { color: #9fb0bf; } .none { background: #33404d; }
}
"""


def write_page(reports: Sequence[LabelReport], table: "pa.Table", raw: Path | None, path: str | Path) -> None:
    """Write the report page.

    Args:
        table: manifest whose rows the reports refer to.
        raw: folder of the raw files; None omits the thumbnails.

    Raises:
        UserError: the page cannot be written.
    """
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>Negative labels</title><style>{_STYLE}</style></head><body><h1>Negative labels</h1>",
        "<p>TP, FP, TN and FN are fractions of the test clips, as in Table 14 of the paper. const is the accuracy of "
        "the majority-class baseline, whose balanced accuracy is 0.50 and MCC 0. AP is the area under the "
        "precision-recall curve, ECE the expected calibration error over 10 bins.</p>",
        _table(reports),
        *(_section(report, table, raw) for report in reports),
        "</body></html>",
    ]
    write_text(path, "\n".join(parts) + "\n")


def _table(reports: Sequence[LabelReport]) -> str:
    rows, last = [], ""
    for row in table_rows(reports):
        kinds = [*(["first"] if row[0] != last else []), *(["paper"] if row[1].startswith("paper") else [])]
        last = row[0]
        cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in (LABELS[row[0]].title, *row[1:]))
        rows.append(f"<tr class='{' '.join(kinds)}'>{cells}</tr>")
    head = "".join(f"<th>{name}</th>" for name in HEADER)
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def _section(report: LabelReport, table: "pa.Table", raw: Path | None) -> str:
    label = LABELS[report.label]
    parts = [f"<h2>{label.title}</h2><p>{html.escape(label.definition)}</p>"]
    for kind, slices in report.slices.items():
        rows = "".join(
            f"<tr><td>{html.escape(name)}</td><td></td><td>{metrics.num_clips}</td><td>{metrics.num_positive}</td>"
            f"<td>{metrics.accuracy:.2f}</td><td>{metrics.balanced_accuracy:.2f}</td></tr>"
            for name, metrics in slices.items()
        )
        head = f"<tr><th>{html.escape(kind)}</th><th></th><th>clips</th><th>with</th><th>acc</th><th>bal acc</th></tr>"
        parts.append(f"<table>{head}{rows}</table>")
    if report.errors:
        figures = "".join(_figure(table, row, raw, probability, truth) for row, probability, truth in report.errors)
        parts.append(f"<p>Largest errors</p><div class='shots'>{figures}</div>")
    return "".join(parts)


def _figure(table: "pa.Table", row: int, raw: Path | None, probability: float, truth: bool) -> str:
    source, start, end = (table[name][row].as_py() for name in ("source", "start", "end"))
    picture = None if raw is None or start is None else _thumbnail(raw / source, start, end)
    image = f"<img src='data:image/jpeg;base64,{picture}' alt=''>" if picture else "<span class='none'></span>"
    description = f"probability {probability:.2f}, {'has' if truth else 'does not have'} the label"
    location = source if start is None else f"{source} at {start:.2f} s"
    return f"<figure>{image}<figcaption>{description}<br>{html.escape(location)}</figcaption></figure>"


def _thumbnail(path: Path, start: float, end: float) -> str | None:
    from cogvideox.video.thumbnail import thumbnail

    times = [start + (end - start) * fraction for fraction in (0.1, 0.5, 0.9)] if end > start else [start]
    try:
        return base64.b64encode(thumbnail(path, times)).decode()
    except UserError:
        return None
