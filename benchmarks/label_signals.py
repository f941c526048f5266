"""Which signals the classifier of each label should read: balanced accuracy on families held out from training.

    python benchmarks/labels.py render --footage FOOTAGE --out DATA
    python benchmarks/label_signals.py DATA

For each training family in turn, the classifiers are trained on the others, and predict it. The table has the mean
over the families for the signals in `curation/labels/definitions.py` ("chosen"), for all signals, and for all but one.
The last column is the lowest of the families for the chosen signals.
"""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow as pa
from label_evaluation import TRAINED, load_renders

from cogvideox.curation.labels.classifier import TrainSettings, train
from cogvideox.curation.labels.definitions import LABELS
from cogvideox.curation.labels.features import signal_columns
from cogvideox.curation.labels.metrics import compute_metrics

Choice = Callable[[str], tuple[str, ...]]
"""Returns the prefixes of the columns that the classifier of a label reads; empty for all."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the renders")
    parser.add_argument("--trees", type=int, default=200, help="trees per label")
    options = parser.parse_args()
    table, truth, about = load_renders(options.data)
    print(format_table(compare_signals(table, truth, np.array([row["side"] for row in about]), options.trees)))


def compare_signals(
    table: pa.Table, truth: Mapping[str, np.ndarray], family: np.ndarray, num_trees: int
) -> dict[str, dict[str, list[float]]]:
    """Return the balanced accuracy on each held-out family, by choice of signals and label."""
    prefixes = sorted({column.partition(".")[0] + "." for column in signal_columns(table)})
    choices: dict[str, Choice] = {"chosen": lambda name: LABELS[name].signals, "all": lambda name: ()}
    for left_out in prefixes:
        others = tuple(prefix for prefix in prefixes if prefix != left_out)
        choices[f"no {left_out.rstrip('.')}"] = lambda name, others=others: others
    return {
        choice: held_out_accuracies(table, truth, family, num_trees, signals) for choice, signals in choices.items()
    }


def held_out_accuracies(
    table: pa.Table, truth: Mapping[str, np.ndarray], family: np.ndarray, num_trees: int, signals: Choice
) -> dict[str, list[float]]:
    """Return the balanced accuracy of each label on each training family, with a model trained on the others."""
    result: dict[str, list[float]] = {name: [] for name in LABELS}
    labels = {name: replace(label, signals=signals(name)) for name, label in LABELS.items()}
    for held_out in (name for name in TRAINED if name in family):
        seen = np.isin(family, TRAINED) & (family != held_out)
        with patch.dict(LABELS, labels):
            model = train(
                table,
                {name: np.where(seen, values, np.nan) for name, values in truth.items()},
                TrainSettings(num_trees=num_trees),
            )
        for name, probabilities in model.predict(table).items():
            values = np.where(family == held_out, truth[name], np.nan)
            if metrics := compute_metrics(probabilities, values, model.thresholds[name]):
                result[name].append(metrics.balanced_accuracy)
    return result


def format_table(accuracies: Mapping[str, Mapping[str, list[float]]]) -> str:
    """Format a Markdown table with a row per label."""
    lines = ["| label | " + " | ".join(accuracies) + " | chosen, lowest |", "| --- " * (len(accuracies) + 2) + "|"]
    for name in LABELS:
        columns = [accuracy[name] for accuracy in accuracies.values()]
        cells = [f"{np.mean(values):.3f}" if values else "" for values in columns]
        lowest = f"{min(accuracies['chosen'][name]):.3f}" if accuracies["chosen"][name] else ""
        lines.append(f"| {name} | " + " | ".join([*cells, lowest]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
