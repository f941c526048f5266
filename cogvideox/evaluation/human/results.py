"""Results of a study: scores or strengths of models with intervals over prompts and raters, agreement, warnings."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cogvideox.evaluation.human.agreement import Alpha, krippendorff_alpha
from cogvideox.evaluation.human.bradley_terry import PairwiseAnswer, strengths
from cogvideox.evaluation.human.intervals import RatingEstimate, crossed_estimates, rater_warning, weighted_means
from cogvideox.evaluation.human.raters import RaterSummary, split_repeats, summarize_raters, unswapped
from cogvideox.evaluation.human.rubric import CRITERIA, PAPER_TABLE, TOTAL
from cogvideox.evaluation.human.study.protocol import Study
from cogvideox.evaluation.human.study.store import Event

MIN_GOLD = 0.7
MIN_SELF_AGREEMENT = 0.5


@dataclass(frozen=True)
class StudyResults:
    """Results of a study.

    Attributes:
        scores: single mode: means by model code, then criterion or total.
        differences: single mode: difference of two models by (code, code), then criterion or total.
        strengths: pair mode: Bradley-Terry strengths by question, then model code.
        counts: pair mode: number of answers by question: each model's wins, "same" and "both_bad".
        agreement: Krippendorff's alpha by criterion or question.
        raters: statistics of each rater.
        num_votes, num_prompts, num_raters: numbers of votes on normal items without repeats, and of what they cover.
        complete: fraction of the planned votes.
        warnings: caveats for readers.
    """

    scores: dict[str, dict[str, RatingEstimate]]
    differences: dict[tuple[str, str], dict[str, RatingEstimate]]
    strengths: dict[str, dict[str, RatingEstimate]]
    counts: dict[str, dict[str, int]]
    agreement: dict[str, Alpha]
    raters: list[RaterSummary]
    num_votes: int
    num_prompts: int
    num_raters: int
    complete: float
    warnings: list[str]


def compute_results(study: Study, votes: Sequence[Event]) -> StudyResults:
    """Compute the results from the valid votes of a study."""
    items = {item.id: item for item in study.items}
    first, _ = split_repeats(votes, items)
    raters = summarize_raters(study, votes)
    num_raters = len({vote.rater for vote in first})
    num_prompts = len({items[str(vote.item)].prompt for vote in first})
    normal = len(study.items_of("normal"))
    planned = min(study.items_per_rater or normal, normal) * study.num_raters
    scores, differences, strength, counts = {}, {}, {}, {}
    if first and study.mode == "single":
        scores, differences = _scores(study, first)
    elif first:
        strength, counts = _strengths(study, first)
    complete = len(first) / max(planned, 1)
    warnings = [warning] if (warning := rater_warning(num_raters)) else []
    if num_prompts < 20:
        warnings.append(f"only {num_prompts} prompts: the intervals assume that they represent all prompts")
    if complete < 1:
        warnings.append(f"{complete:.0%} of the planned votes: results before the end of a study can mislead")
    for rater in raters:
        if rater.gold is not None and rater.gold < MIN_GOLD:
            warnings.append(f"{rater.rater} answered only {rater.gold:.0%} of the gold items correctly")
        if rater.self_agreement is not None and rater.self_agreement < MIN_SELF_AGREEMENT:
            warnings.append(f"{rater.rater} repeated only {rater.self_agreement:.0%} of the answers")
    return StudyResults(
        *(scores, differences, strength, counts, _agreement(study, first), raters),
        *(len(first), num_prompts, num_raters, complete, warnings),
    )


def _scores(
    study: Study, votes: Sequence[Event]
) -> tuple[dict[str, dict[str, RatingEstimate]], dict[tuple[str, str], dict[str, RatingEstimate]]]:
    items = {item.id: item for item in study.items}
    prompts, raters = [items[str(vote.item)].prompt for vote in votes], [vote.rater for vote in votes]
    models = [items[str(vote.item)].models[0] for vote in votes]
    present = sorted(set(models))
    scores: dict[str, dict[str, RatingEstimate]] = {code: {} for code in present}
    differences: dict[tuple[str, str], dict[str, RatingEstimate]] = {}
    for name in (*CRITERIA, TOTAL):
        values = np.array([float((vote.answer or {})[name]) for vote in votes])
        highest = 5.0 if name == TOTAL else 1.0
        means = weighted_means(values, models, present)
        for code, estimate in zip(present, crossed_estimates(means, prompts, raters, bounds=(0.0, highest))):
            scores[code][name] = estimate
        for index, a in enumerate(present):
            for b in present[index + 1 :]:
                both = weighted_means(values, models, [a, b], difference=True)
                estimate = crossed_estimates(both, prompts, raters, bounds=(-highest, highest))[2]
                differences.setdefault((a, b), {})[name] = estimate
    return scores, differences


def _strengths(
    study: Study, votes: Sequence[Event]
) -> tuple[dict[str, dict[str, RatingEstimate]], dict[str, dict[str, int]]]:
    items = {item.id: item for item in study.items}
    strength, counts = {}, {}
    for question in study.questions:
        comparisons, number = [], Counter[str]()
        for vote in votes:
            item, choice = items[str(vote.item)], unswapped(vote)[question]
            first, second = item.models
            winner = {"left": first, "right": second}.get(choice)
            comparisons.append(PairwiseAnswer(item.prompt, vote.rater, first, second, winner))
            number[winner or choice] += 1
        models = sorted({model for comparison in comparisons for model in (comparison.first, comparison.second)})
        strength[question], counts[question] = strengths(comparisons, models), dict(number)
    return strength, counts


def _agreement(study: Study, votes: Sequence[Event]) -> dict[str, Alpha]:
    agreement = {}
    codes = {"left": 0.0, "right": 1.0, "same": 2.0, "both_bad": 3.0}
    for name in study.questions or (*CRITERIA, TOTAL):
        answers: dict[str, dict[str, float]] = defaultdict(dict)
        for vote in votes:
            value = unswapped(vote)[name]
            answers[str(vote.item)][vote.rater] = codes[value] if isinstance(value, str) else float(value)
        agreement[name] = krippendorff_alpha(answers, "nominal" if study.mode == "pair" else "interval")
    return agreement


def format_results(results: StudyResults, study: Study, names: Mapping[str, str]) -> str:
    """Format the results as text.

    Args:
        names: name of each model by code; codes themselves while the study is open.
    """
    lines = [
        f"protocol {study.hash[:16]}: {results.num_votes} votes, {results.num_prompts} prompts, "
        f"{results.num_raters} raters, {results.complete:.0%} of the plan",
        "",
    ]
    if results.scores:
        columns = (*CRITERIA, TOTAL)
        lines.append(f"{'':<18}" + "".join(f"{name:<24}" for name in columns))
        for code, row in results.scores.items():
            lines.append(f"{names[code]:<18}" + "".join(f"{_format_estimate(row[name]):<24}" for name in columns))
        for model, values in PAPER_TABLE.items():
            lines.append(f"{f'{model} (paper)':<18}" + "".join(f"{values[name]:<24.3f}" for name in columns))
        for (a, b), row in results.differences.items():
            label = f"{names[a]} - {names[b]}"
            lines.append(f"{label:<18}" + "".join(f"{_format_estimate(row[name]):<24}" for name in columns))
    for question, row in results.strengths.items():
        lines.append(f"{question}: Bradley-Terry strength (log odds), by the lower end")
        counts = results.counts[question]
        for code, estimate in row.items():
            lines.append(f"  {names[code]:<18}{_format_estimate(estimate):<26}{counts.get(code, 0)} wins")
        lines.append(f"  {'ties':<18}{counts.get('same', 0)} same, {counts.get('both_bad', 0)} both bad")
    lines += ["", "agreement (Krippendorff's alpha)"]
    for name, alpha in results.agreement.items():
        interval = "" if alpha.interval is None else f" [{alpha.interval[0]:.2f}, {alpha.interval[1]:.2f}]"
        lines.append(f"  {name:<14}{alpha.value:.2f}{interval}, {alpha.num_units} items with two or more raters")
    lines += ["", f"{'rater':<20}{'votes':>6}{'bias':>8}{'left':>7}{'repeats':>9}{'gold':>7}{'seconds':>9}"]
    for rater in results.raters:
        cells = (rater.bias, rater.left, rater.self_agreement, rater.gold, rater.seconds)
        formats = ("+.2f", ".0%", ".0%", ".0%", ".1f")
        texts = ["-" if value is None else format(value, format_spec) for value, format_spec in zip(cells, formats)]
        widths = (8, 7, 9, 7, 9)
        lines.append(
            f"{rater.rater:<20}{rater.num_votes:>6}" + "".join(f"{cell:>{width}}" for cell, width in zip(texts, widths))
        )
    return "\n".join([*lines, *(f"note: {warning}" for warning in results.warnings)])


def _format_estimate(estimate: RatingEstimate) -> str:
    if estimate.interval is None:
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} [{estimate.interval[0]:.3f}, {estimate.interval[1]:.3f}]"
