"""The report of an evaluation: one self-contained HTML page, and the same tables as Markdown and CSV."""

import html
import json
from collections.abc import Mapping
from pathlib import Path

from cogvideox.atomic_io import write_text
from cogvideox.evaluation.protocol import format_score, format_value
from cogvideox.evaluation.report.charts import interval_bar, radar
from cogvideox.evaluation.report.tables import comma_separated, common_protocol, intervals_of, markdown, scorers_of
from cogvideox.evaluation.report.videos import EmbeddedVideos
from cogvideox.evaluation.results import EvaluationResults, MetricInfo, VideoResult
from cogvideox.evaluation.suite import Suite

PAGE = "report.html"
NUM_EXTREMES = 3
"""Number of best and of worst videos of each metric."""
_STYLE = """
:root { --text: #1c2733; --faint: #52616f; --line: #d5dde5; --back: #fff; --accent: #3b6ea8; }
@media (prefers-color-scheme: dark) {
  :root { --text: #dbe3ea; --faint: #9fb0bf; --line: #33404d; --back: #14191f; --accent: #7fb0e6; }
}
body { font: 14px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 1100px; padding: 0 1rem;
  color: var(--text); background: var(--back); }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; }
td, th { padding: 3px 12px 3px 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
tr.own td { font-weight: 600; } .faint, figcaption { color: var(--faint); font-size: 12.5px; }
.extremes { display: flex; flex-wrap: wrap; gap: 8px 40px; } .extremes p { margin: 0 0 3px; }
.shots { display: flex; flex-wrap: wrap; gap: 12px; } figure { margin: 0; width: 164px; }
figure video, figure img { width: 164px; display: block; border-radius: 3px; background: #8883; image-rendering: auto; }
figcaption { overflow-wrap: anywhere; } svg text { fill: var(--faint); font-size: 11px; }
svg .grid { stroke: var(--line); fill: none; } svg .bar { stroke: var(--accent); } svg .dot { fill: var(--accent); }
"""
_SCRIPT = """
for (const video of document.querySelectorAll("video[data-id]")) {
  const [source, poster] = VIDEOS[video.dataset.id];
  if (source) video.src = source; else video.removeAttribute("controls");
  video.poster = poster;
}
"""


def write_report(folder: Path, results: EvaluationResults, suite: Suite) -> Path:
    """Write `report.html`, `report.md` and `scores.csv`, and return the path of the page.

    Raises:
        UserError: a file cannot be written.
        ValueError: a score has no protocol.
    """
    write_text(folder / "report.md", markdown(results, suite.published, suite.source))
    write_text(folder / "scores.csv", comma_separated(results))
    videos = EmbeddedVideos(folder)
    sections = [
        _scores(results),
        _published(results, suite),
        _radar(results, suite),
        _extremes(results, videos),
        _failures(results),
        _protocol(results),
    ]
    title = html.escape(f"Evaluation of {common_protocol(results).get('model', folder.name)}: {results.suite}")
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>{title}</title><style>{_STYLE}</style></head><body><h1>{title}</h1>",
        *sections,
        f"<script>const VIDEOS = {json.dumps(videos.sources)};{_SCRIPT}</script></body></html>",
    ]
    write_text(folder / PAGE, "\n".join(parts) + "\n")
    return folder / PAGE


def _scores(results: EvaluationResults) -> str:
    groups = results.groups
    head = "".join(f"<th>{html.escape(group)}</th>" for group in ("all videos", *groups))
    rows = []
    for metric in results.metrics:
        scores = [results.score(metric.name, group) for group in ("", *groups)]
        if not any(scores):
            continue
        cells = []
        for score in scores:
            text = "" if score is None else html.escape(format_score(score, metric.unit))
            bar = interval_bar(score) if score is not None and metric.unit == "%" else ""
            cells.append(f"<td class='n'>{text}{bar}</td>")
        failures = next(score.protocol["num_failures"] for score in scores if score is not None)
        meaning = html.escape(metric.meaning)
        rows.append(
            f"<tr><td>{html.escape(metric.name)}<div class='faint'>{meaning}</div></td>{''.join(cells)}"
            f"<td class='n'>{failures}</td></tr>"
        )
    return (
        f"<h2>Scores</h2><div class='wide'><table><tr><th>metric</th>{head}<th class='n'>failures</th></tr>"
        f"{''.join(rows)}</table></div><p class='faint'>Intervals: {html.escape(intervals_of(results))}.</p>"
    )


def _published(results: EvaluationResults, suite: Suite) -> str:
    if not suite.published:
        return ""
    metrics = [metric for metric in results.metrics if any(metric.name in row.values for row in suite.published)]
    head = "".join(f"<th class='n'>{html.escape(metric.name)}</th>" for metric in metrics)

    def row(name: str, values: Mapping[str, str], style: str = "") -> str:
        cells = "".join(f"<td class='n'>{html.escape(values.get(metric.name, ''))}</td>" for metric in metrics)
        return f"<tr class='{style}'><td>{html.escape(name)}</td>{cells}</tr>"

    measured = {m.name: format_score(score, m.unit) for m in metrics if (score := results.score(m.name)) is not None}
    rows = [row("this evaluation", measured, "own")]
    for published in suite.published:
        texts = {m.name: format_value(published.values[m.name], m.unit) for m in metrics if m.name in published.values}
        rows.append(row(published.model, texts))
    return (
        f"<h2>Published results</h2><p class='faint'>{html.escape(suite.source)}</p>"
        f"<div class='wide'><table><tr><th>model</th>{head}</tr>{''.join(rows)}</table></div>"
    )


def _radar(results: EvaluationResults, suite: Suite) -> str:
    """Return a radar chart of the metrics in percent: groups, or the published models beside this one."""
    groups = results.groups or [""]
    metrics = [m for m in results.metrics if m.unit == "%" and all(results.score(m.name, group) for group in groups)]
    if len(metrics) < 3:
        return ""
    series: dict[str, dict[str, float]] = {}
    for group in ("", *results.groups):
        values = {m.name: score.value for m in metrics if (score := results.score(m.name, group)) is not None}
        series[group or "all videos"] = values
    for row in suite.published:
        series[row.model] = dict(row.values)
    return f"<h2>Profile</h2>{radar([m.name for m in metrics], series)}"


def _extremes(results: EvaluationResults, videos: EmbeddedVideos) -> str:
    parts = []
    for metric in results.metrics:
        measured = [video for video in results.videos if _value(video, metric) is not None]
        if not measured or metric.per_video is None:
            continue
        ordered = sorted(measured, key=lambda video: (_value(video, metric), video.id))
        if metric.higher_is_better is False:
            ordered.reverse()
        if _value(ordered[0], metric) == _value(ordered[-1], metric):
            parts.append(f"<h3>{html.escape(metric.name)}</h3><p class='faint'>All videos have the same value.</p>")
            continue
        number = min(NUM_EXTREMES, len(ordered) // 2)
        parts.append(f"<h3>{html.escape(metric.name)}</h3><div class='extremes'>")
        titles = ("lowest", "highest") if metric.higher_is_better is None else ("worst", "best")
        for title, chosen in zip(titles, (ordered[:number], ordered[: -number - 1 : -1])):
            figures = "".join(_figure(video, metric, videos) for video in chosen)
            parts.append(f"<div><p class='faint'>{title}</p><div class='shots'>{figures}</div></div>")
        parts.append("</div>")
    return f"<h2>Worst and best videos</h2>{''.join(parts)}" if parts else ""


def _figure(video: VideoResult, metric: MetricInfo, videos: EmbeddedVideos) -> str:
    value = _value(video, metric)
    assert value is not None
    return (
        f"<figure>{videos.tag(video)}<figcaption>{value:.4g}: {html.escape(video.prompt or video.id)} "
        f"(seed {video.seed})</figcaption></figure>"
    )


def _failures(results: EvaluationResults) -> str:
    rows = [
        f"<tr><td>{html.escape(video.id)}</td><td>{html.escape(name or 'generation')}</td><td>{html.escape(error)}</td>"
        for video in results.videos
        for name, error in video.errors.items()
    ]
    if not rows:
        return ""
    head = "<tr><th>video</th><th>scorer</th><th>reason</th></tr>"
    return f"<h2>Failures</h2><div class='wide'><table>{head}{'</tr>'.join(rows)}</tr></table></div>"


def _protocol(results: EvaluationResults) -> str:
    rows = [(name, str(value)) for name, value in common_protocol(results).items()]
    for settings in scorers_of(results):
        name = settings.pop("name")
        rows.append((f"scorer {name}", ", ".join(f"{key} {value}" for key, value in settings.items())))
    cells = "".join(f"<tr><td>{html.escape(name)}</td><td>{html.escape(value)}</td></tr>" for name, value in rows)
    return f"<h2>Protocol</h2><div class='wide'><table>{cells}</table></div>"


def _value(video: VideoResult, metric: MetricInfo) -> float | None:
    value = video.measurements.get(metric.scorer, {}).get(metric.per_video)
    return None if value is None else float(value)
