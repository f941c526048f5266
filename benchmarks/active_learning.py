"""Annotations that the label classifiers need: random order beside uncertain-first.

    python benchmarks/labels.py render FOOTAGE OUT     # rendered clips with known labels, measured
    python benchmarks/active_learning.py OUT result.jsonl --seeds 5

An annotator who answers the truth labels the training renders in batches, in an order that a feed of the annotation
page chooses. After each batch the classifiers are trained, and judged on the held-out families. A line per feed, seed
and number of annotations is appended; feeds and seeds that are complete are not computed again.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from label_evaluation import load_renders

from cogvideox.curation.labels.classifier import LabelModel, TrainSettings, train
from cogvideox.curation.labels.definitions import LABELS
from cogvideox.curation.labels.metrics import compute_metrics
from cogvideox.errors import UserError
from cogvideox.serving.annotate.feeds import FeedSettings, Pool, next_clips

FEEDS = ("random", "uncertain")
TARGET = 0.9


def main() -> None:
    """Run what is missing, then print the annotations needed per label."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("renders", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=40)
    parser.add_argument("--most", type=int, default=400)
    parser.add_argument("--trees", type=int, default=60)
    options = parser.parse_args()
    table, truth, about = load_renders(options.renders)
    side = np.array([row["side"] for row in about])
    done = [json.loads(line) for line in options.result.read_text().splitlines()] if options.result.exists() else []
    finished = {(line["feed"], line["seed"]) for line in done if line["annotations"] >= options.most}
    for seed in range(options.seeds):
        for feed in FEEDS:
            if (feed, seed) not in finished:
                lines = simulate(table, truth, side, feed, seed, options)
                done += lines
                with options.result.open("a") as file:
                    file.writelines(json.dumps(line) + "\n" for line in lines)
    print(summary(done))


def simulate(table, truth, side, feed, seed, options) -> list[dict]:
    """Annotate in batches, and return the balanced accuracies after each."""
    ids = table["id"].to_pylist()
    train_rows = np.flatnonzero(side == "train")
    pool = Pool([ids[row] for row in train_rows])
    row_of = {ids[row]: row for row in train_rows}
    settings, lines, annotated = FeedSettings(overlap=0.0, gold=0.0, seed=seed), [], []
    while len(annotated) < min(options.most, len(train_rows)):
        turn = feed if pool.probabilities else "random"
        batch = next_clips(pool, "annotator", set(), options.batch, settings, turn)
        if not batch:
            break
        for clip in batch:
            pool.labels[clip] = {"annotator": ()}
        annotated += [row_of[clip] for clip in batch]
        known = np.zeros(len(ids), dtype=bool)
        known[annotated] = True
        learned = {name: np.where(known, values, np.nan) for name, values in truth.items()}
        try:
            model = train(table, learned, TrainSettings(num_trees=options.trees, seed=seed))
        except UserError:  # too few annotations of every label
            continue
        probabilities = model.predict(table)
        pool.probabilities = {name: values[train_rows] for name, values in probabilities.items()}
        pool.thresholds = model.thresholds
        line = {"feed": feed, "seed": seed, "annotations": len(annotated)}
        lines.append({**line, "balanced accuracy": balanced_accuracies(model, probabilities, truth, side == "test")})
        print(json.dumps(lines[-1]), flush=True)
    return lines


def balanced_accuracies(model: LabelModel, probabilities, truth, tested) -> dict[str, float]:
    """Return the balanced accuracy of each label on the held-out renders."""
    result = {}
    for name in model.heads:
        rows = tested & np.isfinite(truth[name]) & np.isfinite(probabilities[name])
        metrics = compute_metrics(probabilities[name][rows], truth[name][rows], model.thresholds[name])
        result[name] = round(float(metrics.balanced_accuracy), 4)
    return result


def summary(lines: list[dict]) -> str:
    """Format the annotations until the balanced accuracy reaches the target, and the accuracy at the end."""
    rows = [f"{'label':<14}" + "".join(f"{feed:<34}" for feed in FEEDS)]
    for name in LABELS:
        cells = []
        for feed in FEEDS:
            curves = {}
            for line in lines:
                if line["feed"] == feed and name in line["balanced accuracy"]:
                    curves.setdefault(line["seed"], []).append((line["annotations"], line["balanced accuracy"][name]))
            reached = [next((n for n, value in sorted(curve) if value >= TARGET), None) for curve in curves.values()]
            last = [sorted(curve)[-1][1] for curve in curves.values()]
            shown = "/".join("-" if number is None else str(number) for number in reached)
            cells.append(f"{shown} (end {np.mean(last) if last else np.nan:.3f})")
        rows.append(f"{name:<14}" + "".join(f"{cell:<34}" for cell in cells))
    return "\n".join(rows)


if __name__ == "__main__":
    main()
