"""`cogvideox plot RUN [RUN ...]`: plot the logged metrics of training runs."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

from cogvideox.cli.common.arguments import Parser
from cogvideox.errors import UserError
from cogvideox.untrusted.text_encoding import printable


def run(arguments: list[str]) -> None:
    """Read the metrics of runs and write a chart."""
    options = parser().parse(arguments)
    if not options.runs:
        raise UserError("missing RUN: give one or more run folders, such as runs/toybox")

    from cogvideox.training.metrics.curves import Run, save

    runs = [Run.read(folder) for folder in options.runs]
    name_counts = Counter(run.name for run in runs)
    runs = [
        replace(run, name=printable(str(folder))) if name_counts[run.name] > 1 else run
        for run, folder in zip(runs, options.runs)
    ]
    save(runs, options.output)
    print(options.output)


def parser() -> Parser:
    """Return the argument parser."""
    p = Parser(
        "plot",
        "RUN [RUN ...]",
        "Plot the curves of runs: losses, learning rate, speed and any other metrics in metrics.jsonl.",
    )
    p.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="the folder of a run, finished or not")
    p.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("curves.png"),
        metavar="FILE",
        help="curves.png (the default) or curves.svg",
    )
    return p
