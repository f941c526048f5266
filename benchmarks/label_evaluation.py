"""The evaluation of `labels.py`: classifiers on renders and on real clips, and how many annotations they need."""

import json
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from label_renders import NAMES

from cogvideox.atomic_io import write_text
from cogvideox.curation.labels.classifier import LabelModel, TrainSettings, train
from cogvideox.curation.labels.metrics import compute_metrics
from cogvideox.curation.labels.report import Predictions, build_report, format_report, worst_errors
from cogvideox.curation.manifest import read_manifest

NUMBERS, SEEDS, VLM_STEPS = (50, 100, 200, 500, 1000), 5, 20
REAL_SECONDS = (10, 6)
"""Maximum length of the parts of real clips. 10 was defined first; 6 was added after the misses had been read."""
TRAINED, TESTED = ("train", "wide", "varied", "broad"), ("test", "fresh", "final")  # see `label_families.families`
FEWER = ("train", "wide")  # training families of the comparison with less footage
FINAL_CHUNK = 9  # its clips of the family "fresh" were not evaluated during development, and are reported as "final"

# First 16 digits of the SHA-256 of real clips that nobody made for this test, their names in the packages and
# repositories they come from, and the labels a person gave them. "a|b": one of them is enough; empty: no label.
REAL_CLIPS: dict[str, tuple[str, str]] = {
    "b96aaacd454077e6": ("3d_printing_08-1.mp4", "static"),
    "7c9057e79a7de4f5": ("3d_printing_08-3.mp4", ""),
    "e312a903ffe83735": ("Bullseye_grey.mov", "static"),
    "3d5fdb2ab8cb91ba": ("animal_04-1.mp4", "static"),
    "34fdbb1d0d715435": ("animal_04-3.mp4", ""),
    "ca976f15c715cc60": ("chaplin.mp4", "low_quality"),
    "fe129d341e5b1a17": ("cityCC0.mpg", "editing"),
    "6f4c735d183678ef": ("default.mp4", "text"),
    "e89d08aad61d994d": ("demo.gif", "screenshot,text"),
    "e0b3e536bedb4ae2": ("example.mp4", "static,text"),
    "d37aecb6e22109f7": ("extra_channel_attached_pic.mp4", "screenshot|text"),
    "9f336c671f5bf37d": ("extra_channel_attached_pic_audio.mp4", "screenshot|text"),
    "a76d6cea524a2779": ("face_noface.mov", "editing"),
    "1492141a4e0bdd3b": ("fire2.mp4", "low_quality"),
    "f2c3b46a591a0e56": ("install.gif", "screenshot,text"),
    "f0c7ef7c6bdcdb37": ("jwpIntro.mp4", "lecture"),
    "cdff4978e7fb4da6": ("no_face.mp4", "text"),
    "83c4c1d4f63e9943": ("noface_face.mov", "editing"),
    "2124ae406269862d": ("opossum_snow.mp4", "editing"),
    "e726a035d1b7c32b": ("rgb.m4v", "editing|static"),
    "95ee1a41bfd0f50a": ("single_face.mp4", "lecture"),
    "d2529f03af264f54": ("smpte-2997.mp4", "static,text"),
    "e273111721b678f3": ("testMovie.mp4", "lecture,low_quality"),
    "ce0d2ba68822a89a": ("trailer_bbb.mp4", "editing,text"),
    "8c185d51c04cedfe": ("v1.m4v", ""),
    "00a98690659a9202": ("v2.m4v", ""),
    "60b934aaeb9b54c9": ("v2s.mov", "editing|static"),
    "096855d7c710acd6": ("voila-basics.gif", "screenshot"),
    "53538934da1edece": ("voila-sources.gif", "screenshot"),
    "f989be20d30e2e7c": ("watermark.gif", "screenshot,text"),
    "95d378783bf84527": ("window.gif", "screenshot,text"),
}


def evaluate(out: Path, path: Path | None, chart: Path | None, vlm: Path | None) -> None:
    """Train on the renders, evaluate, print a report, and write the figures as JSON and a chart.

    Args:
        vlm: folder of a video-language model, which is trained for a few steps; None leaves it out.
    """
    table, truth, about = load_renders(out)
    family = np.array([row["side"] for row in about])
    learned = {name: np.where(np.isin(family, TRAINED), values, np.nan) for name, values in truth.items()}
    models: dict[str, LabelModel] = {}
    seconds = {}
    for kind in ("signals", "embedding"):
        start = time.process_time()
        models[kind] = train(table, learned, TrainSettings(kind=kind))
        seconds[kind] = round(time.process_time() - start, 1)
    predictions = [Predictions(kind, model.predict(table), model.thresholds) for kind, model in models.items()]
    if vlm is not None:
        rows = table.select(["start", "end"]).to_pylist()
        rows = [
            row | {"path": about_row["path"], "is_image": False} for row, about_row in zip(rows, about, strict=True)
        ]
        tested_rows = np.isin(family, TESTED[-1:])
        predictions += [train_vlm(vlm, answer, rows, learned, tested_rows) for answer in ("head", "chat")]
    figures: dict[str, Any] = {
        "train_clips": int(np.isin(family, TRAINED).sum()),
        "test_clips": {name: int((family == name).sum()) for name in TESTED},
        "train_processor_seconds": seconds,
        "real_footage": {name: count_real(about, name) for name in TESTED},
        "metrics": {},
        "errors": {},
    }
    for name in TESTED:
        print(f"\nrenders of the family {name}:")
        tested = {label: np.where(family == name, values, np.nan) for label, values in truth.items()}
        reports = build_report(predictions, tested)
        print(format_report(reports))
        figures["metrics"][name] = {
            report.label: {kind: vars(metrics) for kind, metrics in report.metrics.items()} for report in reports
        }
        kinds = [row["kind"] for row in about]
        figures["errors"][name] = {
            given.name: {label: count_errors(given, label, tested[label], kinds) for label in NAMES}
            for given in predictions
        }
    figures["fewer_families"] = evaluate_fewer(table, truth, family)
    figures["real"] = {}
    for length in REAL_SECONDS:
        results = {kind: evaluate_real(out / f"real{length}", model) for kind, model in models.items()}
        figures["real"][f"{length} s"] = results
        for kind, result in results.items():
            missed = ", ".join(row["name"] for row in result["rows"] if not row["hit"])
            numbers = f"{result['hits']} of {result['files']}, {result['exact']} exact"
            print(f"real clips, parts of {length} s, {kind}: {numbers}; missed: {missed}")
    held_out = {label: np.where(np.isin(family, TESTED), values, np.nan) for label, values in truth.items()}
    figures["curve"] = learning_curve(table, learned, held_out)
    if path is not None:
        write_text(path, json.dumps(figures, indent=1) + "\n")
    if chart is not None:
        plot_curve(figures["curve"], chart)


def train_vlm(
    base: Path, answer: str, rows: list[dict[str, Any]], learned: dict[str, np.ndarray], chosen: np.ndarray
) -> Predictions:
    """Train a video-language model for a few steps, and predict the labels of the chosen rows."""
    from cogvideox.training.labels import trainer
    from cogvideox.training.labels.config import VlmLabelsConfig

    config = VlmLabelsConfig(
        answer="head" if answer == "head" else "chat", num_frames=2, longest_side=64, num_steps=VLM_STEPS
    )
    with tempfile.TemporaryDirectory() as folder:
        thresholds = trainer.train(base, rows, learned, folder, config)
        model, _ = trainer.load(folder)
        indices = np.flatnonzero(chosen)
        predicted = trainer.predict(model, [rows[index] for index in indices], NAMES)
    probabilities = {name: np.full(len(rows), np.nan) for name in NAMES}
    for name in NAMES:
        probabilities[name][indices] = predicted[name]
    return Predictions(f"vlm, {answer}", probabilities, thresholds)


def load_renders(out: Path) -> tuple[pa.Table, dict[str, np.ndarray], list[dict[str, Any]]]:
    """Return the measured renders, the truth of each label, and what each is. Files that were split are left out.

    The clips of chunk `FINAL_CHUNK` belong to the family "final".
    """
    tables, about = [], []
    for folder in sorted(out.glob("chunk-*")):  # a chunk without a manifest is not complete
        if not (folder / "out" / "manifest.parquet").is_file():
            continue
        table = read_manifest(folder / "out").replace_schema_metadata(None)
        sources = Counter(table["source"].to_pylist())
        table = table.filter(pa.array([sources[source] == 1 for source in table["source"].to_pylist()]))
        known = {row["source"]: row for row in json.loads((folder / "truth.json").read_text())}
        rows = [known[source] | {"path": str(folder / "raw" / source)} for source in table["source"].to_pylist()]
        if folder.name == f"chunk-{FINAL_CHUNK}":
            rows = [row | {"side": "final"} for row in rows]
        about += rows
        tables.append(table)
    truth = {name: np.array([np.nan if row[name] is None else float(row[name]) for row in about]) for name in NAMES}
    return pa.concat_tables([table.cast(tables[0].schema) for table in tables]), truth, about


def count_real(about: list[dict[str, Any]], family: str) -> dict[str, list[int]]:
    """Return the clips of a family with each label: how many are effects on real footage, and how many there are."""
    result = {}
    for name in NAMES:
        real = [row["real"] for row in about if row["side"] == family and row[name]]
        result[name] = [sum(real), len(real)]
    return result


def evaluate_fewer(table: pa.Table, truth: dict[str, np.ndarray], family: np.ndarray) -> dict[str, dict[str, float]]:
    """Return the balanced accuracy of `signals` with the training families `FEWER` alone, and the same columns."""
    learned = {name: np.where(np.isin(family, FEWER), values, np.nan) for name, values in truth.items()}
    model = train(table, learned, TrainSettings())
    probabilities = model.predict(table)
    result: dict[str, dict[str, float]] = {}
    for tested in ("test", "fresh"):
        result[tested] = {}
        for name in NAMES:
            labels = np.where(family == tested, truth[name], np.nan)
            if metrics := compute_metrics(probabilities[name], labels, model.thresholds[name]):
                result[tested][name] = metrics.balanced_accuracy
    return result


def count_errors(given: Predictions, name: str, truth: np.ndarray, kinds: list[str]) -> dict[str, int]:
    """Return the number of errors by kind of render, most frequent first."""
    rows = worst_errors(given.probabilities[name], truth, given.thresholds[name], len(truth))
    described = (f"{kinds[row]}: {'missed' if truth[row] > 0.5 else 'false alarm'}" for row in rows)
    return dict(Counter(described).most_common())


def evaluate_real(output: Path, model: LabelModel) -> dict[str, Any]:
    """Return which real files get the labels that a person gave them. A file has the labels of any of its clips.

    A hit has all expected labels, or none if none is expected; labels beyond the expected ones are counted, too.
    An exact match is a hit without such labels.
    """
    table = read_manifest(output)
    probabilities = model.predict(table)
    places: dict[str, list[int]] = {}
    for index, source_id in enumerate(table["source_id"].to_pylist()):
        if (source_id or "")[:16] in REAL_CLIPS and np.isfinite(probabilities[NAMES[0]][index]):
            places.setdefault(source_id[:16], []).append(index)
    rows = []
    for key, indices in places.items():
        name, expected = REAL_CLIPS[key]
        highest = {label: float(max(probabilities[label][indices])) for label in model.heads}
        given = [label for label, value in highest.items() if value > model.thresholds[label]]
        groups = [set(group.split("|")) for group in expected.split(",") if group]
        hit = all(group & set(given) for group in groups) if groups else not given
        extra = sorted(set(given) - set().union(*groups))
        values = {label: round(value, 2) for label, value in highest.items()}
        rows.append({"name": name, "expected": expected, "given": given, "extra": extra, "hit": hit, "highest": values})
    hits, extra_labels = sum(row["hit"] for row in rows), sum(len(row["extra"]) for row in rows)
    exact = sum(row["hit"] and not row["extra"] for row in rows)
    return {"files": len(rows), "hits": hits, "exact": exact, "extra_labels": extra_labels, "rows": rows}


def learning_curve(table: pa.Table, learned: dict[str, np.ndarray], tested: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return the balanced accuracy of each label by number of annotated clips, per seed. Fewer trees, for speed.

    A label without enough clips to train its classifier counts as 0.5, the balanced accuracy of a constant prediction.
    """
    rows = np.flatnonzero(np.isfinite(np.stack(list(learned.values()))).any(0))
    numbers = [number for number in NUMBERS if number < len(rows)] + ([len(rows)] if len(rows) < NUMBERS[-1] else [])
    test_rows = np.flatnonzero(np.isfinite(np.stack(list(tested.values()))).any(0))
    test_table = table.take(pa.array(test_rows))
    curve: dict[str, Any] = {}
    for number in sorted(set(numbers) | ({NUMBERS[-1]} if len(rows) >= NUMBERS[-1] else set())):
        results: dict[str, list[float]] = {name: [] for name in NAMES}
        for seed in range(SEEDS):
            chosen = np.random.default_rng(seed).choice(rows, number, replace=False)
            part = {name: np.full(len(table), np.nan) for name in NAMES}
            for name in NAMES:
                part[name][chosen] = learned[name][chosen]
            model = train(table, part, TrainSettings(num_trees=40, seed=seed))
            probabilities = model.predict(test_table)
            for name in NAMES:
                if name not in model.heads:
                    results[name].append(0.5)
                    continue
                metrics = compute_metrics(probabilities[name], tested[name][test_rows], model.thresholds[name])
                results[name].append(round(metrics.balanced_accuracy, 4) if metrics else float("nan"))
        curve[str(number)] = results
        print(
            f"{number} annotated clips: " + ", ".join(f"{k} {np.mean(v):.2f}" for k, v in results.items()),
            flush=True,
        )
    return curve


def plot_curve(curve: dict[str, Any], path: Path) -> None:
    """Draw mean and range over seeds of each label's balanced accuracy."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axes = figure.add_subplot()
    numbers = [int(number) for number in curve]
    for name in NAMES:
        values = [curve[str(number)][name] for number in numbers]
        axes.plot(numbers, [np.mean(row) for row in values], marker="o", label=name)
        axes.fill_between(numbers, [min(row) for row in values], [max(row) for row in values], alpha=0.12)
    axes.set_xscale("log")
    axes.set_xticks(numbers, [str(number) for number in numbers])
    axes.minorticks_off()
    axes.axhline(0.92, color="gray", linewidth=0.8, linestyle="--")
    axes.set(xlabel="annotated clips", ylabel="balanced accuracy, all test families", ylim=(0.48, 1.01))
    axes.legend(loc="lower right", ncols=2, fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
