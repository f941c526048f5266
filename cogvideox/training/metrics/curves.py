"""Charts of the metrics that training runs logged in `metrics.jsonl`, several runs side by side."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cogvideox.errors import UserError
from cogvideox.training.metrics.charts import COLORS, Curve, Point, chart, draw, legend
from cogvideox.untrusted.files import check_limit, read_text, reading
from cogvideox.untrusted.text_encoding import printable, split_lines

FIRST_PANELS = ("loss", "psnr", "lr", "grad_norm", "samples_per_second", "tokens_per_second", "useful", "mfu")
"""Metrics whose panels come first, in this order; all others follow by name."""
HIDDEN = ("step", "samples", "tokens", "ms_per_step", "skipped")
"""Metrics without a panel: the x axis, derived metrics, and those in the legend."""
TITLES = {
    "lr": "learning rate",
    "grad_norm": "gradient norm",
    "samples_per_second": "clips/s",
    "tokens_per_second": "tokens/s",
    "useful": "fraction of tokens that are not padding",
    "mfu": "MFU",
}
TIMESTEP_BIN = re.compile(r"(validation/)?loss_(\d+)")
FINAL_FRACTION = 0.2
"""The losses by timestep are averaged over this final fraction of a run."""

COLUMNS = 3
WIDTH, HEIGHT, LEGEND_LINE = 3.8, 2.4, 0.18
"""Inches: the size of a panel and the height of a line of the legend."""


@dataclass(frozen=True)
class Run:
    """A run's name and its logged metrics, each as points (step, value)."""

    name: str
    values: Mapping[str, Sequence[Point]]

    @classmethod
    def read(cls, folder: Path) -> "Run":
        """Read the folder of a run, or its `metrics.jsonl`.

        Raises:
            UserError: the file does not exist, or was not written by a training run.
        """
        file = folder if folder.is_file() else folder / "metrics.jsonl"
        metrics: dict[str, list[Point]] = {}
        if not file.exists():
            raise UserError(f"{folder} is not the folder of a training run: it has no metrics.jsonl")
        with reading(file, "not written by a training run"):
            lines = split_lines(read_text(file, "TABLE_BYTES"))
            for number, line in enumerate(lines, start=1):
                try:
                    values = json.loads(line)
                except ValueError:
                    if number < len(lines):
                        raise
                    break  # an unfinished line: the run is writing it, or was killed
                step = float(values["step"])
                for name, value in values.items():
                    metrics.setdefault(printable(name), []).append((step, float(value)))
                check_limit("METRICS", len(metrics), f"the number of metrics in {file}")
        if not metrics:
            raise UserError(f"{folder} has no metrics yet: its metrics.jsonl is empty")
        return cls(printable(file.parent.name or file.parent.resolve().name), metrics)


def save(runs: Sequence[Run], path: Path) -> None:
    """Write a chart as SVG or PNG: a panel for each metric, a color for each run, dashed lines for validation.

    Raises:
        UserError: unsupported suffix; matplotlib is not installed; nothing was logged, for example because all steps
            were skipped; the file cannot be written.
    """
    panels = _panels(runs)
    names = [run.name + _skipped(run) for run in runs]
    if not panels:
        raise UserError(f"no metrics have been logged yet by {', '.join(names)}")
    entries = [(name, Curve((), _color(i))) for i, name in enumerate(names)]
    if any(curve.dashed for curves in panels.values() for curve in curves):
        entries.append(("validation", Curve((), "#888888", dashed=True)))
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    with chart(path, WIDTH * columns, HEIGHT * rows + LEGEND_LINE * (len(entries) + 1)) as figure:
        all_axes = figure.subplots(rows, columns, squeeze=False).flat
        for axes, (title, curves) in zip(all_axes, panels.items(), strict=False):
            draw(axes, title, curves, integer_x=True)
        for axes in all_axes[len(panels) :]:
            axes.set_axis_off()
        legend(figure, entries)


def _panels(runs: Sequence[Run]) -> dict[str, list[Curve]]:
    """Return the curves of each panel by its title. A metric has one panel for training and validation."""
    names = {
        name.removeprefix("validation/") for run in runs for name in run.values if not TIMESTEP_BIN.fullmatch(name)
    }
    ordered = [name for name in FIRST_PANELS if name in names] + sorted(names - {*FIRST_PANELS, *HIDDEN})
    panels: dict[str, list[Curve]] = {}
    for name in ordered:
        panels[_title(name)] = [
            Curve(run.values[key], _color(i), dashed=key != name)
            for i, run in enumerate(runs)
            for key in (name, f"validation/{name}")
            if key in run.values
        ]
        by_timestep = _loss_by_timestep(runs) if name == "loss" else []
        if by_timestep:
            panels["loss by tenth of the timesteps, at the end"] = by_timestep
    return panels


def _title(name: str) -> str:
    source = name.removeprefix("kept/")  # a data source, which may be a long path
    return TITLES.get(name, name) if source == name else f"fraction of {Path(source).name} kept by the policy"


def _loss_by_timestep(runs: Sequence[Run]) -> list[Curve]:
    """Return the loss of each tenth of the timesteps: the mean over the end of each run, and its last validation."""
    curves = []
    for i, run in enumerate(runs):
        points: dict[bool, list[Point]] = {False: [], True: []}
        for name, values in run.values.items():
            if match := TIMESTEP_BIN.fullmatch(name):
                is_validation = match[1] is not None
                end = values[-1:] if is_validation else values[-max(1, round(FINAL_FRACTION * len(values))) :]
                points[is_validation].append((float(match[2]), sum(value for _, value in end) / len(end)))
        curves += [Curve(sorted(curve), _color(i), dashed) for dashed, curve in points.items() if curve]
    return curves


def _skipped(run: Run) -> str:
    num_skipped = len(run.values.get("skipped", ()))
    return f" ({num_skipped} {'step' if num_skipped == 1 else 'steps'} skipped)" if num_skipped else ""


def _color(i: int) -> str:
    return COLORS[i % len(COLORS)]
