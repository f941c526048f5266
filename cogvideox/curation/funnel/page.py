"""The funnel as a self-contained HTML page: counts, histograms, thumbnails of extreme and dropped clips."""

import base64
import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cogvideox.atomic_io import write_text
from cogvideox.curation.funnel.counts import Distribution, Funnel, distributions, funnel
from cogvideox.curation.funnel.thresholds import Limit, thresholds_of
from cogvideox.curation.manifest import stage_records
from cogvideox.errors import UserError
from cogvideox.filter_policy.policy import Policy

if TYPE_CHECKING:
    import pyarrow as pa

PAGE = "funnel.html"
MAX_PICTURES = 160
_STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 1100px; padding: 0 1rem; color: #1c2733; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; border-bottom: 1px solid #d5dde5; }
table { border-collapse: collapse; width: 100%; } td, th { padding: 3px 10px; text-align: left; vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
tr.step td { border-top: 1px solid #d5dde5; font-weight: 600; } tr.reason td { color: #a03a2c; font-weight: 400; }
.bar { background: #3b6ea8; height: 12px; display: block; min-width: 1px; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(330px, 1fr)); gap: 14px; }
.card { border: 1px solid #d5dde5; border-radius: 6px; padding: 10px; overflow: hidden; }
.card b { font-family: ui-monospace, monospace; } .card p { margin: 2px 0 6px; color: #52616f; font-size: 12.5px; }
.shots { display: flex; flex-wrap: wrap; gap: 6px; } figure { margin: 0; max-width: 100%; }
figure img { display: block; max-width: 100%; border-radius: 3px; }
figcaption { font-size: 11px; color: #52616f; max-width: 330px; overflow-wrap: anywhere; }
.none { display: inline-block; width: 96px; height: 54px; background: #e6ebf0; border-radius: 3px; }
svg .limit { stroke: #a03a2c; stroke-width: 2; } .card p.rule { color: #a03a2c; }
svg rect { fill: #3b6ea8; } svg text { font-size: 10px; fill: #52616f; }
@media (prefers-color-scheme: dark) {
  body { background: #14191f; color: #dbe3ea; } .card, td, h2 { border-color: #33404d !important; }
  .card p, figcaption, svg text { color: #9fb0bf; fill: #9fb0bf; } tr.reason td { color: #f09383; }
}
"""


def write_page(
    table: "pa.Table",
    raw: Path | None,
    output: Path,
    stage_timings: dict[str, Any] | None = None,
    policy: Policy | None = None,
) -> Path:
    """Write the funnel page for a manifest.

    Args:
        raw: folder of the raw files; None omits the thumbnails.
        output: folder to which the page is written.
        stage_timings: rows and seconds of each stage in the last run (`run.json`).
        policy: a resolved policy, whose thresholds are drawn on the histograms.

    Raises:
        UserError: the page cannot be written.
    """
    pictures = _Pictures(table, raw)
    result, columns = funnel(table), distributions(table)
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>Curation of {_text(raw.name if raw else output.name)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>Curation of {_text(raw.name if raw else output.name)}</h1>",
        _funnel_table(result),
        "<h2>Dropped clips and reasons</h2>",
        _dropped(table, result, pictures),
        "<h2>Distributions and extremes</h2><div class='cards'>",
        *(_card(table, column, pictures, thresholds_of(policy, column.name)) for column in columns),
        "</div>",
        _throughput(stage_timings),
        "<h2>Settings</h2><table>",
        *(
            f"<tr><td>{_text(name)}</td><td><code>{_text(json.dumps(record))}</code></td></tr>"
            for name, record in stage_records(table).items()
        ),
        "</table></body></html>",
    ]
    path = output / PAGE
    write_text(path, "\n".join(parts) + "\n")
    return path


def _funnel_table(result: Funnel) -> str:
    first = max(result.steps[0].rows, 1)
    rows = [f"<tr class='step'><td>files</td><td class='n'>{result.num_files:,}</td>"]
    rows.append(f"<td class='n'>{result.file_hours:.2f}</td><td class='n'></td><td></td></tr>")
    rows += [_reason(reason, number) for reason, number in result.lost_files.items()]
    for step in result.steps:
        fraction = step.rows / first
        rows.append(
            f"<tr class='step'><td>{_text(step.name)}</td><td class='n'>{step.rows:,}</td>"
            f"<td class='n'>{step.hours:.2f}</td><td class='n'>{fraction:.1%}</td>"
            f"<td style='width:40%'><span class='bar' style='width:{100 * fraction:.1f}%'></span></td></tr>"
        )
        rows += [_reason(reason, number) for reason, number in step.reasons.items()]
    if result.pending:
        rows.append(f"<tr><td>pending</td><td class='n'>{result.pending:,}</td></tr>")
    head = "<tr><th>passed</th><th class='n'>rows</th><th class='n'>hours</th><th class='n'>fraction</th><th></th></tr>"
    return f"<table>{head}{''.join(rows)}</table>"


def _reason(reason: str, number: int) -> str:
    return f"<tr class='reason'><td></td><td class='n'>{-number:,}</td><td colspan='3'>{_text(reason)}</td></tr>"


def _dropped(table: "pa.Table", result: Funnel, pictures: "_Pictures") -> str:
    parts = []
    for step in result.steps:
        for reason, rows in step.examples.items():
            figures = "".join(pictures.figure(row, table["reason"][row].as_py()) for row in rows)
            parts.append(
                f"<div class='card'><b>{_text(step.name)}</b> <p>{_text(reason)} ({step.reasons[reason]:,})</p>"
                f"<div class='shots'>{figures}</div></div>"
            )
    return f"<div class='cards'>{''.join(parts)}</div>" if parts else "<p>No clips were dropped.</p>"


def _card(table: "pa.Table", column: Distribution, pictures: "_Pictures", thresholds: Sequence[Limit]) -> str:
    unit = f" {column.unit}" if column.unit else ""
    quantiles = ", ".join(f"{level} %: {value:.4g}" for level, value in column.percentiles.items())
    missing = f"; {column.missing:,} without a value" if column.missing else ""

    def figures(rows: Sequence[int]) -> str:
        return "".join(pictures.figure(row, f"{table[column.name][row].as_py():.4g}{unit}") for row in rows)

    histogram = _histogram(column, thresholds)
    rules = "".join(f"<p class='rule'>{_text(limit.rule)}</p>" for limit in thresholds)
    return (
        f"<div class='card'><b>{_text(column.name)}</b><p>{_text(column.description)}</p>{histogram}"
        f"<p>mean {column.mean:.4g}{_text(unit)}; {quantiles}{missing}</p>{rules}"
        f"<p>lowest</p><div class='shots'>{figures(column.lowest[:2])}</div>"
        f"<p>highest</p><div class='shots'>{figures(column.highest[:2])}</div></div>"
    )


def _histogram(column: Distribution, thresholds: Sequence[Limit]) -> str:
    width, height, top = 300, 64, max(column.counts)
    step = width / len(column.counts)
    bars = "".join(
        f"<rect x='{index * step:.1f}' y='{height - height * count / top:.1f}' width='{step - 1:.1f}' "
        f"height='{height * count / top:.1f}'><title>{column.edges[index]:.4g} to {column.edges[index + 1]:.4g}: "
        f"{count:,}</title></rect>"
        for index, count in enumerate(column.counts)
    )
    low, high = column.edges[0], column.edges[-1]
    for limit in thresholds:
        x = width * min(max((limit.value - low) / (high - low), 0.0), 1.0)
        dashes = " stroke-dasharray='3 2'" if limit.is_scheduled else ""
        bars += (
            f"<line class='limit' x1='{x:.1f}' x2='{x:.1f}' y1='0' y2='{height}'{dashes}>"
            f"<title>{_text(limit.rule)}</title></line>"
        )
    return (
        f"<svg viewBox='0 0 {width} {height + 14}' width='100%' role='img'>{bars}"
        f"<text x='0' y='{height + 11}'>{column.edges[0]:.4g}</text>"
        f"<text x='{width}' y='{height + 11}' text-anchor='end'>{column.edges[-1]:.4g}</text></svg>"
    )


def _throughput(stage_timings: dict[str, Any] | None) -> str:
    if not stage_timings or not stage_timings.get("rows"):
        return ""
    rows = "".join(
        f"<tr><td>{_text(name)}</td><td class='n'>{number:,}</td><td class='n'>{seconds:.1f}</td>"
        f"<td class='n'>{number / seconds:.2f}</td></tr>"
        for name, number in stage_timings["rows"].items()
        if (seconds := stage_timings["seconds"].get(name, 0.0)) > 0
    )
    head = "<tr><th>stage</th><th class='n'>rows</th><th class='n'>seconds</th><th class='n'>rows per second</th></tr>"
    return f"<h2>Throughput of the last run, per process</h2><table>{head}{rows}</table>"


class _Pictures:
    """Thumbnails of rows, decoded once each, for at most `MAX_PICTURES` rows."""

    def __init__(self, table: "pa.Table", raw: Path | None) -> None:
        self._table, self._raw = table, raw
        self._thumbnails: dict[int, str | None] = {}

    def figure(self, row: int, caption: str) -> str:
        """Return an HTML figure with the thumbnail and the source of a row."""
        if row not in self._thumbnails:
            self._thumbnails[row] = self._picture(row) if len(self._thumbnails) < MAX_PICTURES else None
        data = self._thumbnails[row]
        image = f"<img src='data:image/jpeg;base64,{data}' alt=''>" if data else "<span class='none'></span>"
        source, start = self._table["source"][row].as_py(), self._table["start"][row].as_py()
        location = source if start is None else f"{source} at {start:.2f} s"
        return f"<figure>{image}<figcaption>{_text(caption)}<br>{_text(location)}</figcaption></figure>"

    def _picture(self, row: int) -> str | None:
        from cogvideox.video.thumbnail import thumbnail

        start, end = self._table["start"][row].as_py(), self._table["end"][row].as_py()
        if self._raw is None or start is None:
            return None
        path = self._raw / self._table["source"][row].as_py()
        number = self._table["num_frames"][row].as_py()
        # A quarter of a frame early, because `thumbnail` shows the first frame at or after each time.
        frames = sorted({0, number // 2, number - 1}) if number > 1 else [0]
        times = [max(start, start + (frame - 0.25) * (end - start) / max(number, 1)) for frame in frames]
        try:
            return base64.b64encode(thumbnail(path, times)).decode()
        except UserError:
            return None


def _text(value: str) -> str:
    return html.escape(value)
