"""Tables of scores: Markdown and CSV. Every table comes with the protocol."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from cogvideox.evaluation.protocol import Protocol, check_protocol, format_score, format_value
from cogvideox.evaluation.results import EvaluationResults
from cogvideox.evaluation.suite import PublishedRow


def common_protocol(results: EvaluationResults) -> dict[str, Any]:
    """Return the protocol that all scores of an evaluation share."""
    first: Mapping[str, Any] = results.scores[0].protocol if results.scores else {}
    return {field.name: first[field.name] for field in fields(Protocol) if field.name in first}


def markdown(results: EvaluationResults, published: Sequence[PublishedRow] = (), source: str = "") -> str:
    """Return the report as Markdown."""
    groups = ["", *results.groups]
    head = ["metric", *(group or "all videos" for group in groups), "failures", "meaning"]
    lines = [f"# Evaluation: {results.suite}", "", _row(head), _row(["---"] * len(head))]
    for metric in results.metrics:
        scores = [results.score(metric.name, group) for group in groups]
        if not any(scores):
            continue
        cells = ["" if score is None else format_score(score, metric.unit) for score in scores]
        failures = next(score.protocol["num_failures"] for score in scores if score is not None)
        lines.append(_row([metric.name, *cells, str(failures), metric.meaning]))
    lines += ["", f"Intervals: {intervals_of(results)}.", ""]
    if published:
        columns = [metric for metric in results.metrics if any(metric.name in row.values for row in published)]
        lines += ["## Published results", "", source, ""]
        lines += [_row(["model", *(column.name for column in columns)]), _row(["---"] * (len(columns) + 1))]
        measured = [results.score(column.name) for column in columns]
        cells = ["" if score is None else format_score(score, column.unit) for score, column in zip(measured, columns)]
        lines.append(_row(["**this evaluation**", *cells]))
        for row in published:
            values = [row.values.get(column.name) for column in columns]
            cells = ["" if value is None else format_value(value, c.unit) for value, c in zip(values, columns)]
            lines.append(_row([row.model, *cells]))
        lines.append("")
    lines += ["## Protocol", "", *(f"- {name}: {value}" for name, value in common_protocol(results).items())]
    for scorer in scorers_of(results):
        lines.append(f"- scorer {scorer.pop('name')}: {', '.join(f'{name} {value}' for name, value in scorer.items())}")
    return "\n".join(lines) + "\n"


def comma_separated(results: EvaluationResults) -> str:
    """Return a line for each score, with its whole protocol."""
    file = io.StringIO()
    names = [*(field.name for field in fields(Protocol)), "num_videos", "num_prompts", "num_failures", "interval"]
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["metric", "group", "value", "low", "high", "unit", "scorer", *names])
    units = {metric.name: metric.unit for metric in results.metrics}
    for score in results.scores:
        check_protocol(score)
        low, high = score.interval or ("", "")
        value: Any = "" if math.isnan(score.value) else score.value
        unit = "fraction" if units[score.metric] == "%" else units[score.metric]
        protocol = score.protocol
        settings = [protocol["scorer"], *(protocol[name] for name in names)]
        writer.writerow([score.metric, protocol["group"], value, low, high, unit, *settings])
    return file.getvalue()


def scorers_of(results: EvaluationResults) -> list[dict[str, Any]]:
    """Return the settings of all scorers."""
    scorers = {score.protocol["scorer"]["name"]: dict(score.protocol["scorer"]) for score in results.scores}
    return list(scorers.values())


def intervals_of(results: EvaluationResults) -> str:
    """Return how the intervals were computed."""
    return "; ".join(dict.fromkeys(score.protocol["interval"] for score in results.scores))


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
