"""Paired comparison of two evaluations of the same suite."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from cogvideox import config
from cogvideox.errors import UserError
from cogvideox.evaluation.intervals import Difference, difference, holm
from cogvideox.evaluation.protocol import check_protocol, format_value
from cogvideox.evaluation.results import EvaluationResults, MetricInfo, VideoResult
from cogvideox.evaluation.suite import Suite, SuiteOptions
from cogvideox.evaluation.suites.registry import build_suite
from cogvideox.records import Score


@dataclass(frozen=True)
class MetricComparison:
    """A metric of both evaluations over their common videos, and the difference A - B.

    Attributes:
        a, b: the separate scores of each evaluation, with protocols.
        adjusted_p: p value adjusted for the number of metrics (Holm), over all videos; None in a group.
    """

    metric: MetricInfo
    group: str
    a: Score
    b: Score
    difference: Difference
    adjusted_p: float | None = None


@dataclass(frozen=True)
class ComparisonResult:
    """All comparisons, and the settings in which the protocols differ: name -> (A, B)."""

    comparisons: tuple[MetricComparison, ...]
    differing: dict[str, tuple[Any, Any]]
    num_pairs: int


def compare(a: EvaluationResults, b: EvaluationResults, suite: Suite | None = None) -> ComparisonResult:
    """Compare two evaluations on their common prompts.

    Args:
        suite: the suite, for its metrics; None builds it from the options of `a`.

    Raises:
        UserError: different suites or scorers, or no common prompts.
    """
    if a.suite != b.suite:
        raise UserError(f"the suites differ, {a.suite} and {b.suite}: compare evaluations of one suite")
    if not a.scores or not b.scores:
        raise UserError("one of the evaluations has no scores: run `cogvideox evaluate` again")
    suite = suite or build_suite(a.suite, config.from_dict(SuiteOptions, a.options))
    first, second = _by_key(a), _by_key(b)
    keys = [key for key in first if key in second]
    if not keys:
        raise UserError("the evaluations have no prompt in common, so they cannot be compared")
    statistics = {metric.name: metric for scorer in suite.scorers for metric in scorer.metrics}
    groups = list(dict.fromkeys(first[key].group for key in keys))
    comparisons = []
    for metric in a.metrics:
        for group in ("", *(groups if len(groups) > 1 else ())):
            score_a, score_b = a.score(metric.name, group), b.score(metric.name, group)
            if score_a is None or score_b is None or metric.name not in statistics:
                continue
            for name in ("scorer", *statistics[metric.name].details):
                left, right = score_a.protocol.get(name), score_b.protocol.get(name)
                if left != right:
                    raise UserError(
                        f"{metric.name} was measured with {name} {left} and {right}: "
                        "evaluate both again with the same one"
                    )
            pairs = [
                (left, right, key[1])
                for key in keys
                if (not group or first[key].group == group)
                and (left := first[key].measurements.get(metric.scorer)) is not None
                and (right := second[key].measurements.get(metric.scorer)) is not None
            ]
            if not pairs:
                continue
            left_rows = [left for left, _, _ in pairs]
            right_rows = [right for _, right, _ in pairs]
            prompts = [prompt for _, _, prompt in pairs]
            result = difference(statistics[metric.name], left_rows, right_rows, prompts)
            comparisons.append(MetricComparison(metric, group, score_a, score_b, result))
    overall = [comparison for comparison in comparisons if not comparison.group]
    adjusted = dict(zip(map(id, overall), holm([comparison.difference.p_value for comparison in overall])))
    comparisons = [
        MetricComparison(c.metric, c.group, c.a, c.b, c.difference, adjusted.get(id(c))) for c in comparisons
    ]
    return ComparisonResult(tuple(comparisons), _differing(a, b), len(keys))


def format_comparison(result: ComparisonResult) -> str:
    """Return a comparison as Markdown, with the protocols' differences first."""
    lines = [f"{result.num_pairs} pairs of videos. The protocols differ in:", ""]
    lines += [f"- {name}: A {left}, B {right}" for name, (left, right) in result.differing.items()] or ["- none"]
    lines += [
        "",
        "| metric | A | B | A - B | 95 % interval | p | p (Holm) | prompts |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in result.comparisons:
        check_protocol(row.a)
        check_protocol(row.b)
        unit, delta = row.metric.unit, row.difference
        interval = "" if delta.interval is None else " to ".join(_signed(bound, unit) for bound in delta.interval)
        name = row.metric.name + (f" ({row.group})" if row.group else "")
        values = [format_value(score.value, unit) for score in (row.a, row.b)]
        adjusted = "" if row.adjusted_p is None else f"{row.adjusted_p:.3f}"
        cells = [name, *values, _signed(delta.value, unit), interval, f"{delta.p_value:.3f}", adjusted]
        lines.append(f"| {' | '.join([*cells, str(delta.num_prompts)])} |")
    return "\n".join(lines) + "\n"


def _signed(value: float, unit: str) -> str:
    text = format_value(value, unit)
    return text if text.startswith("-") or text == "no value" else f"+{text}"


def _by_key(results: EvaluationResults) -> dict[tuple[str, str, int], VideoResult]:
    """Return the videos by group, prompt and index among the videos of this prompt."""
    counts: Counter[tuple[str, str]] = Counter()
    videos = {}
    for video in results.videos:
        prompt = video.prompt or video.id
        videos[video.group, prompt, counts[video.group, prompt]] = video
        counts[video.group, prompt] += 1
    return videos


def _differing(a: EvaluationResults, b: EvaluationResults) -> dict[str, tuple[Any, Any]]:
    from cogvideox.evaluation.report.tables import common_protocol

    first, second = common_protocol(a), common_protocol(b)
    return {name: (first[name], second[name]) for name in first if first[name] != second.get(name)}
