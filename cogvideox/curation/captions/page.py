"""Self-contained HTML page: the captions of all stages side by side, with the problems found by the checks."""

import base64
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cogvideox.atomic_io import write_text
from cogvideox.curation.captions.config import STAGES
from cogvideox.curation.captions.outputs import CAPTIONS
from cogvideox.errors import UserError
from cogvideox.untrusted.files import reading

PAGE = "captions.html"
_STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 1250px; padding: 0 1rem; color: #1c2733; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.05rem; margin: 0 0 6px; font-weight: 600; overflow-wrap: anywhere; }
table { border-collapse: collapse; } td, th { padding: 2px 12px 2px 0; text-align: left; vertical-align: top; }
.clip { border: 1px solid #d5dde5; border-radius: 6px; padding: 12px; margin: 14px 0; }
.clip img { display: block; max-width: 100%; border-radius: 3px; margin-bottom: 8px; }
.stages { display: grid; grid-template-columns: repeat(auto-fit, minmax(260px, 1fr)); gap: 14px; }
.stages b { font-size: 12px; text-transform: uppercase; letter-spacing: .04em; color: #52616f; }
.stages p { margin: 2px 0 4px; overflow-wrap: anywhere; } .problem { color: #a03a2c; font-size: 12.5px; }
.note { color: #52616f; font-size: 12.5px; }
@media (prefers-color-scheme: dark) {
  body { background: #14191f; color: #dbe3ea; } .clip { border-color: #33404d; }
  .note, .stages b { color: #9fb0bf; } .problem { color: #f09383; }
}
"""


def write_page(output: Path, max_clips: int = 100) -> Path:
    """Write the HTML page of an output folder and return its path. Clips with problems come first.

    Raises:
        UserError: there are no captions, or the page cannot be written.
    """
    from pyarrow import parquet

    path = output / CAPTIONS
    if not path.is_file():
        raise UserError(f"cannot read {path}: run `cogvideox caption IN {output} --pipeline FILE` first")
    with reading(path, "damaged or not a Parquet file"):
        rows = parquet.read_table(path).to_pylist()
    try:
        folder = Path(json.loads((output / "captions.json").read_text(encoding="utf-8"))["source"])
    except (OSError, ValueError, KeyError, TypeError):
        folder = output
    stages = [stage for stage in STAGES if any(row.get(f"caption.{stage}") is not None for row in rows)]
    shown = sorted(rows, key=lambda row: row["status"] == "ok")[:max_clips]
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>Captions</title><style>{_STYLE}</style></head><body><h1>Captions of {_text(folder.name)}</h1>",
        _totals(rows, stages),
        f"<p class='note'>{len(shown)} of {len(rows)} clips are shown, clips with problems first.</p>",
        *(_clip(row, stages, folder) for row in shown),
        "</body></html>",
    ]
    page = output / PAGE
    write_text(page, "\n".join(parts) + "\n")
    return page


def _totals(rows: Sequence[Mapping[str, Any]], stages: Sequence[str]) -> str:
    lines = [
        "<tr><th>stage</th><th>captions</th><th>without problems</th><th>words</th><th>tokens</th><th>cost</th></tr>"
    ]
    for stage in stages:
        column = f"caption.{stage}"
        present = [row for row in rows if row[column] is not None]
        good = sum(not row[f"{column}_problems"] for row in present)
        words = [len(_words(row[column], stage)) for row in present]
        tokens, cost = (sum(row[f"{column}_{name}"] or 0 for row in present) for name in ("tokens", "cost"))
        mean = sum(words) / max(1, len(words))
        lines.append(
            f"<tr><td>{stage}</td><td>{len(present)}</td><td>{good}</td><td>{mean:.1f}</td><td>{tokens:,}</td>"
            f"<td>{cost:.4g}</td></tr>"
        )
    return f"<table>{''.join(lines)}</table>"


def _words(value: str, stage: str) -> list[str]:
    if stage == "frames":
        return " ".join(frame["text"] for frame in json.loads(value)).split()
    return value.split()


def _clip(row: Mapping[str, Any], stages: Sequence[str], folder: Path) -> str:
    columns = "".join(f"<div><b>{stage}</b>{_stage_html(row, stage)}</div>" for stage in stages)
    facts = _facts(row.get("caption.facts"))
    reason = f": {row['reason']}" if row["reason"] else ""
    status = "" if row["status"] == "ok" else f"<p class='problem'>{_text(row['status'] + reason)}</p>"
    part = "" if row["end"] is None else f", {row['start']:.2f} to {row['end']:.2f} s"
    picture = _picture(row, folder)
    return (
        f"<div class='clip'><h2>{_text(row['source'] + part)}</h2>{status}{picture}"
        f"<div class='stages'>{columns}</div><p class='note'>{_text(facts)}</p></div>"
    )


def _stage_html(row: Mapping[str, Any], stage: str) -> str:
    value, problems = row.get(f"caption.{stage}"), row.get(f"caption.{stage}_problems")
    if value is None:
        return "<p class='note'>none</p>"
    if stage == "frames":
        text = "".join(f"<p>{frame['time']:g} s: {_text(frame['text'])}</p>" for frame in json.loads(value))
    else:
        text = f"<p>{_text(value)}</p>"
    lines = "".join(f"<p class='problem'>{_text(line)}</p>" for line in (problems or "").split("\n") if line)
    attempts = row.get(f"caption.{stage}_attempts") or 0
    note = f"<p class='note'>{attempts} attempts</p>" if attempts > 1 and stage != "frames" else ""
    return text + lines + note


def _facts(value: str | None) -> str:
    if not value:
        return ""
    facts = json.loads(value)
    counts = ", ".join(f"{kind} {count:.1f}" for kind, count in (facts["counts"] or {}).items())
    tags = ", ".join(f"{name} {value:.2f}" for name, value in list(facts["tags"].items())[:3])
    parts = {"objects": counts, "tags": tags, "text": " | ".join(facts["texts"] or ())}
    parts |= {"colors": ", ".join(facts["colors"]), "camera": facts["camera"] or "", "motion": facts["motion"] or ""}
    return "measured: " + "; ".join(f"{name}: {part}" for name, part in parts.items() if part)


def _picture(row: Mapping[str, Any], folder: Path) -> str:
    from cogvideox.video.thumbnail import thumbnail

    start, end = row["start"], row["end"]
    times = sorted({start + (end - start) * part for part in (0.02, 0.26, 0.5, 0.74, 0.97)})
    try:
        data = base64.b64encode(thumbnail(folder / row["file_name"], times, height=120)).decode()
    except UserError:
        return ""
    return f"<img src='data:image/jpeg;base64,{data}' alt=''>"


def _text(value: str) -> str:
    return html.escape(value)
