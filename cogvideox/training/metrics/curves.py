"""The curves of runs, side by side: what their `metrics.jsonl` say, as panels of one picture. Imports no torch."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cogvideox.atomic_io import cannot_read, write_text
from cogvideox.drawing.chart import COLOURS, Curve, panel
from cogvideox.drawing.figure import Figure, Point
from cogvideox.errors import UserError
from cogvideox.records import Video

FIRST = ("loss", "psnr", "lr", "grad_norm", "samples_per_second", "tokens_per_second", "useful", "mfu")
"""Panels that come before all others."""
HIDDEN = ("step", "samples", "tokens", "ms_per_step", "skipped")
"""What has no panel: it is an axis, follows from others, or stands in the legend."""
TITLES = {
    "lr": "learning rate",
    "grad_norm": "norm of the gradient",
    "samples_per_second": "clips a second",
    "tokens_per_second": "tokens a second",
    "useful": "useful tokens, of all in a row",
    "mfu": "MFU",
}
BIN = re.compile(r"(validation/)?loss_(\d+)")
LAST = 0.2
"""Of a run: over so much of its end the losses by timestep are averaged."""

WIDTH, HEIGHT, COLUMNS, ROW = 380, 220, 3, 18  # of a panel; panels in a row; height of a line of the legend


@dataclass(frozen=True)
class Run:
    """A run's name, and the values of each thing that it wrote down, by step."""

    name: str
    values: Mapping[str, Sequence[Point]]

    @classmethod
    def read(cls, folder: Path) -> "Run":
        """Reads the folder of a run, or its `metrics.jsonl`.

        Raises:
            UserError: there is none, or it is something else.
        """
        file = folder if folder.is_file() else folder / "metrics.jsonl"
        found: dict[str, list[Point]] = {}
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
            for number, line in enumerate(lines, start=1):
                try:
                    values = json.loads(line)
                except ValueError:
                    if number < len(lines):
                        raise
                    break  # half a line: the run is writing it, or was killed
                step = float(values["step"])
                for name, value in values.items():
                    found.setdefault(name, []).append((step, float(value)))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise UserError(f"{folder} is no run: it holds no metrics.jsonl") from error
        except OSError as error:
            raise cannot_read(file, error) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"cannot read {file}: it is not what a run writes") from error
        if not found:
            raise UserError(f"{folder} has nothing to draw yet: its metrics.jsonl is empty")
        return cls(file.parent.name or str(file.parent.resolve().name), found)


def save(runs: Sequence[Run], path: Path) -> None:
    """Writes the picture as SVG or PNG, by the ending of `path`.

    Raises:
        UserError: another ending; nothing to draw; the disk refuses.
    """
    if path.suffix.lower() not in (".svg", ".png"):
        raise UserError(f"cannot write {path}: the name of a picture of curves ends in .svg or .png")
    figure = draw(runs)
    if path.suffix.lower() == ".svg":
        write_text(path, figure.svg())
    else:
        Video(figure.pixels()[None], fps=1.0).save(path)


def draw(runs: Sequence[Run]) -> Figure:
    """A panel for each thing that runs wrote down, a colour for each run; what was measured in validation is dashed.

    Raises:
        UserError: they wrote down nothing of the kind, as when all their steps were skipped.
    """
    panels = list(_panels(runs).items())
    if not panels:
        names = ", ".join(run.name + _skipped(run) for run in runs)
        raise UserError(f"there is nothing to draw yet of {names}: no step that was made is written down")
    columns = min(COLUMNS, len(panels))
    top = ROW * (len(runs) + 1)
    figure = Figure(WIDTH * columns, top + HEIGHT * -(-len(panels) // columns))
    for i, run in enumerate(runs):
        figure.line([(16, ROW * i + 18), (40, ROW * i + 18)], _colour(i), width=3)
        figure.text(48, ROW * i + 22, run.name + _skipped(run))
    if any(curve.dashed for _, curves in panels for curve in curves):
        figure.line([(16, ROW * len(runs) + 18), (40, ROW * len(runs) + 18)], "#888888", dashed=True)
        figure.text(48, ROW * len(runs) + 22, "in validation")
        figure.height, top = figure.height + ROW, top + ROW
    for i, (title, curves) in enumerate(panels):
        x, y = WIDTH * (i % columns), top + HEIGHT * (i // columns)
        panel(figure, x, y, WIDTH, HEIGHT, title, curves)
    return figure


def _panels(runs: Sequence[Run]) -> dict[str, list[Curve]]:
    """Titles and curves. A thing and the same in validation share a panel."""
    names = {name.removeprefix("validation/") for run in runs for name in run.values if not BIN.fullmatch(name)}
    chosen = [name for name in FIRST if name in names] + sorted(names - {*FIRST, *HIDDEN})
    found: dict[str, list[Curve]] = {}
    for name in chosen:
        found[_title(name)] = [
            Curve(run.values[full], _colour(i), dashed=full != name)
            for i, run in enumerate(runs)
            for full in (name, f"validation/{name}")
            if full in run.values
        ]
        by_timestep = _by_timestep(runs) if name == "loss" else []
        if by_timestep:
            found["loss by timestep, in tenths, at the end"] = by_timestep
    return found


def _title(name: str) -> str:
    kept = name.removeprefix("kept/")  # the name of a source, which may be a long path
    return TITLES.get(name, name) if kept == name else f"share of {Path(kept).name} that the policy keeps"


def _by_timestep(runs: Sequence[Run]) -> list[Curve]:
    """For each run the loss of each part of the range of timesteps, over the end of the run; in validation the last."""
    curves = []
    for i, run in enumerate(runs):
        parts: dict[bool, list[Point]] = {False: [], True: []}
        for name, values in run.values.items():
            if match := BIN.fullmatch(name):
                in_validation = match[1] is not None
                end = values[-1:] if in_validation else values[-max(1, round(LAST * len(values))) :]
                parts[in_validation].append((float(match[2]), sum(value for _, value in end) / len(end)))
        curves += [Curve(sorted(points), _colour(i), dashed) for dashed, points in parts.items() if points]
    return curves


def _skipped(run: Run) -> str:
    num = len(run.values.get("skipped", ()))
    return f" ({num} {'step' if num == 1 else 'steps'} skipped)" if num else ""


def _colour(i: int) -> str:
    return COLOURS[i % len(COLOURS)]
