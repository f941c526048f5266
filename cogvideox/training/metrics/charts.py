"""Line charts as SVG or PNG files. matplotlib (extra `train`) is imported when the first chart is drawn."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cogvideox.atomic_io import atomic_write
from cogvideox.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Point = tuple[float, float]

COLORS = ("#1f6fb4", "#d1603d", "#2a7f62", "#8a5aa8", "#b58a1a", "#5f6b7a")
LOG_SCALE_RATIO = 20
"""The y axis is logarithmic if the ratio of its largest to its smallest value exceeds this."""
MAX_POINTS = 400
"""Longer curves are downsampled by averaging groups of consecutive points."""

STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#888888",
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": "medium",
    "axes.titleweight": "bold",
    "font.size": 9,
    "grid.color": "#e4e4e4",
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "savefig.dpi": 200,
    "svg.fonttype": "none",  # text elements instead of outlines
    "svg.hashsalt": "cogvideox",  # deterministic element ids, for reproducible files
    "text.parse_math": False,  # a run's name may contain dollar signs
    "xtick.color": "#555555",
    "ytick.color": "#555555",
}


@dataclass(frozen=True)
class Curve:
    """A curve of points in ascending x. Non-finite points are skipped."""

    points: Sequence[Point]
    color: str
    dashed: bool = False

    def plotted_points(self) -> list[Point]:
        """Return the finite points, downsampled by averaging if there are more than `MAX_POINTS`."""
        points = [point for point in self.points if all(map(math.isfinite, point))]
        size = max(1, -(-len(points) // MAX_POINTS))
        groups = [points[start : start + size] for start in range(0, len(points), size)]
        return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]


@contextmanager
def chart(path: Path, width: float, height: float) -> Iterator["Figure"]:
    """Yield an empty figure (size in inches), and write it to `path` if the block succeeds.

    The suffix, `.svg` or `.png`, determines the format. Equal charts produce identical files.

    Raises:
        UserError: unsupported suffix, matplotlib is not installed, or the file cannot be written.
    """
    if path.suffix.lower() not in (".svg", ".png"):
        raise UserError(f"cannot write {path}: the file name of a chart ends in .svg or .png")
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError("drawing charts needs matplotlib: pip install 'cogvideox[train]'") from error
    # A Figure created without pyplot needs no display: savefig uses the Agg or SVG backend.
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        with atomic_write(path) as temporary:
            figure.savefig(temporary, metadata={"Date": None} if path.suffix.lower() == ".svg" else None)


def draw(axes: "Axes", title: str, curves: Sequence[Curve], *, integer_x: bool = False) -> None:
    """Draw curves and a title. A curve with a single point is drawn as a dot.

    Args:
        integer_x: place x ticks at integers only, for example for steps.
    """
    axes.set_title(title)
    lines = [(curve, points) for curve in curves if (points := curve.plotted_points())]
    if not lines:
        return
    for curve, points in lines:
        xs, ys = zip(*points)
        marker = "o" if len(points) == 1 else None
        axes.plot(xs, ys, color=curve.color, linestyle="--" if curve.dashed else "-", marker=marker, markersize=4)
    values = [y for _, points in lines for _, y in points]
    lowest, highest = min(values), max(values)
    if lowest > 0 and highest > LOG_SCALE_RATIO * lowest:
        from matplotlib.ticker import LogLocator, NullFormatter

        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if highest < 1000 * lowest else (1,)))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter("{x:g}")
    if integer_x:
        axes.locator_params(axis="x", integer=True, min_n_ticks=1)


def legend(figure: "Figure", entries: Sequence[tuple[str, Curve]], *, columns: int = 1) -> None:
    """Add a legend above all axes. The points of the curves are ignored."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=curve.color, linestyle="--" if curve.dashed else "-", label=label)
        for label, curve in entries
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=columns)
