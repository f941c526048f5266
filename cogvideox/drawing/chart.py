"""A panel with axes and curves, on a part of a figure."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cogvideox.drawing.figure import Figure, Number, Point

COLOURS = ("#1f6fb4", "#d1603d", "#2a7f62", "#8a5aa8", "#b58a1a", "#5f6b7a")
"""Of curves that are to be told apart, in turn."""
AXIS, GRID, LABEL = "#888888", "#e4e4e4", "#555555"

MARGIN = 0.04
"""Of the height, above and below the curves."""
LOGARITHMIC = 20
"""A range whose upper end is so many times its lower one is drawn on a logarithmic axis."""

DOT = 5
"""How wide a curve of one point is, in pixels: as thin as others it would not be seen."""

_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 26, 24  # around the axes, for numbers and the title


@dataclass(frozen=True)
class Curve:
    """Points in the order of their x. Those that are not finite are left out."""

    points: Sequence[Point]
    colour: str
    dashed: bool = False


def panel(
    figure: Figure, x: Number, y: Number, width: Number, height: Number, title: str, curves: Iterable[Curve]
) -> None:
    """Draws curves and their axes into a rectangle of the figure."""
    curves = [Curve([p for p in c.points if all(map(math.isfinite, p))], c.colour, c.dashed) for c in curves]
    xs, ys = ([point[i] for curve in curves for point in curve.points] for i in (0, 1))
    figure.text(x + _LEFT, y + 16, title, bold=True)
    if not xs:
        return
    left, top, right, bottom = x + _LEFT, y + _TOP, x + width - _RIGHT, y + height - _BOTTOM
    logarithmic = min(ys) > 0 and max(ys) > LOGARITHMIC * min(ys)
    across, up = Axis.over(xs, num_ticks=5), Axis.over(ys, num_ticks=5, logarithmic=logarithmic, margin=MARGIN)
    for tick in up.ticks:
        level = bottom - up.place(tick) * (bottom - top)
        figure.line([(left, level), (right, level)], GRID, width=1)
        figure.text(left - 6, level + 4, short(tick), anchor="end", colour=LABEL)
    for tick in across.ticks:
        figure.text(left + across.place(tick) * (right - left), bottom + 16, short(tick), anchor="middle", colour=LABEL)
    figure.line([(left, top), (left, bottom), (right, bottom)], AXIS, width=1)
    for curve in curves:
        placed = [
            (left + across.place(px) * (right - left), bottom - up.place(py) * (bottom - top))
            for px, py in thinned(curve.points, int(right - left))
        ]
        figure.line(placed, curve.colour, width=1.5 if len(placed) > 1 else DOT, dashed=curve.dashed)


@dataclass(frozen=True)
class Axis:
    """From `low` to `high`; the ticks lie between them."""

    low: Number
    high: Number
    ticks: tuple[Number, ...]
    logarithmic: bool = False

    @classmethod
    def over(
        cls, values: Sequence[Number], *, num_ticks: int, logarithmic: bool = False, margin: float = 0.0
    ) -> "Axis":
        """An axis that has all values and, on both sides, a share of its length without any; about so many ticks, at
        round numbers."""
        low, high = min(values), max(values)
        if logarithmic:
            low, high = low * (low / high) ** margin, high * (high / low) ** margin
            first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
            parts = (1,) if last - first > 2 else (1, 2, 5)
            ticks = [part * 10.0**k for k in range(first, last + 1) for part in parts]
            return cls(low, high, tuple(tick for tick in ticks if low <= tick <= high), logarithmic=True)
        around = margin * (high - low) if low < high else abs(low) / 10 or 1.0
        low, high = low - around, high + around
        rough = (high - low) / num_ticks
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(k * unit for k in (1, 2, 5, 10) if k * unit >= rough * (1 - 1e-9))
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        return cls(low, high, tuple(k * step for k in range(first, last + 1)))

    def place(self, value: Number) -> float:
        """Where a value is, from 0 at the lower end to 1."""
        low, high = self.low, self.high
        if self.logarithmic:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return (value - low) / (high - low)


def thinned(points: Sequence[Point], most: int) -> list[Point]:
    """The points, or the means of groups of them, so that there are at most so many."""
    size = -(-len(points) // max(1, most))
    groups = [points[start : start + size] for start in range(0, len(points), max(1, size))]
    return [(sum(px for px, _ in group) / len(group), sum(py for _, py in group) / len(group)) for group in groups]


def short(value: Number) -> str:
    """`0.25`, `12k`, `1.5M`, `3e-05`."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"
