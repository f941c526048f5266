"""Pace, agreement and accuracy of annotators, from the annotation store."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, median

from cogvideox.curation.annotations.store import AnnotationStore
from cogvideox.curation.labels.definitions import LABELS
from cogvideox.evaluation.human.agreement import Alpha, dawid_skene, krippendorff_alpha

PAUSE_SECONDS = 120.0
"""Minimum time on one clip, in seconds, that counts as a pause."""


@dataclass(frozen=True)
class AnnotatorProgress:
    """Statistics of an annotator; None without data.

    Attributes:
        num_clips: annotated clips.
        num_unsure: clips that the annotator could not decide.
        num_undone: undone answers.
        clips_per_minute: pace, without pauses.
        gold: fraction of correct yes/no answers to gold items, over all labels.
        sensitivity, specificity: from the model of Dawid and Skene, by label; empty with fewer than two annotators.
    """

    annotator: str
    num_clips: int
    num_unsure: int
    num_undone: int
    clips_per_minute: float | None
    gold: float | None
    sensitivity: dict[str, float]
    specificity: dict[str, float]


@dataclass(frozen=True)
class AnnotationProgress:
    """Statistics of a store: agreement by label, and annotators."""

    num_clips: int
    num_shared: int
    agreement: dict[str, Alpha]
    annotators: list[AnnotatorProgress]


def compute_progress(store: AnnotationStore) -> AnnotationProgress:
    """Compute the statistics from all valid annotations."""
    events, gold = store.annotations(skipped=True), store.gold()
    labeled = [event for event in events if event.kind == "annotation"]
    by_clip: dict[str, dict[str, tuple[str, ...]]] = defaultdict(dict)
    for event in labeled:
        by_clip[event.clip_id][event.annotator] = event.labels
    agreement, accuracy = {}, {}
    shared = {clip: row for clip, row in by_clip.items() if len(row) > 1}
    for name in LABELS:
        answers = {
            clip: {annotator: float(name in labels) for annotator, labels in row.items()}
            for clip, row in by_clip.items()
        }
        agreement[name] = krippendorff_alpha(answers)
        if shared:
            accuracy[name] = dawid_skene(
                {clip: {annotator: name in labels for annotator, labels in row.items()} for clip, row in shared.items()}
            )
    undone: dict[str, int] = defaultdict(int)
    for event in store.events():
        undone[event.annotator] += event.kind == "undo"
    annotators = []
    for annotator in dict.fromkeys(event.annotator for event in events):
        own_events = [event for event in labeled if event.annotator == annotator]
        times = [event.seconds for event in own_events if event.seconds is not None and event.seconds < PAUSE_SECONDS]
        known = [(event.labels, gold[event.clip_id]) for event in own_events if event.clip_id in gold]
        is_correct = [(name in labels) == (name in true_labels) for labels, true_labels in known for name in LABELS]
        annotators.append(
            AnnotatorProgress(
                annotator,
                len(own_events),
                sum(event.annotator == annotator and event.kind == "skip" for event in events),
                undone[annotator],
                60 / max(median(times), 1e-3) if times else None,
                fmean(is_correct) if is_correct else None,
                _values_of(annotator, {name: model.sensitivity for name, model in accuracy.items()}),
                _values_of(annotator, {name: model.specificity for name, model in accuracy.items()}),
            )
        )
    return AnnotationProgress(len(by_clip), len(shared), agreement, annotators)


def _values_of(annotator: str, values: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    return {name: row[annotator] for name, row in values.items() if annotator in row}


def format_progress(progress: AnnotationProgress, names: Mapping[str, str]) -> str:
    """Format the statistics as text.

    Args:
        names: name of each annotator by id.
    """
    lines = [f"{progress.num_clips} annotated clips, {progress.num_shared} by two or more people", ""]
    lines.append(f"{'label':<14}{'alpha':>8}  95 % interval")
    for name, alpha in progress.agreement.items():
        interval = "" if alpha.interval is None else f"[{alpha.interval[0]:.2f}, {alpha.interval[1]:.2f}]"
        lines.append(f"{name:<14}{alpha.value:>8.2f}  {interval}")
    lines += [
        "",
        f"{'annotator':<20}{'clips':>7}{'unsure':>8}{'undone':>8}{'per minute':>12}{'gold':>7}{'sens.':>7}{'spec.':>7}",
    ]
    for row in progress.annotators:
        cells = [
            "-" if row.clips_per_minute is None else f"{row.clips_per_minute:.1f}",
            "-" if row.gold is None else f"{row.gold:.0%}",
            f"{fmean(row.sensitivity.values()):.2f}" if row.sensitivity else "-",
            f"{fmean(row.specificity.values()):.2f}" if row.specificity else "-",
        ]
        name = names.get(row.annotator, row.annotator)
        numbers = f"{row.num_clips:>7}{row.num_unsure:>8}{row.num_undone:>8}"
        lines.append(f"{name:<20}{numbers}{cells[0]:>12}" + "".join(f"{cell:>7}" for cell in cells[1:]))
    return "\n".join(lines)
