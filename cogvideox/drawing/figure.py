"""Lines, rectangles and text on a white page, which is then written as SVG or painted as pixels.

Places are in pixels of the page, x to the right and y down.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise
from typing import Literal

import numpy as np
from jaxtyping import Float32, UInt8

from cogvideox.drawing import font

Number = float | int
Point = tuple[Number, Number]
Anchor = Literal["start", "middle", "end"]

DASH, GAP = 5.0, 4.0
SCALE = 2
"""Painted pixels for one of the page, so that letters are as large in both."""

_ANCHORS: dict[Anchor, float] = {"start": 0.0, "middle": 0.5, "end": 1.0}


@dataclass(frozen=True)
class Line:
    """Through points; through a single one it is a dot."""

    points: tuple[Point, ...]
    colour: str
    width: Number
    dashed: bool

    def svg(self) -> str:
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in self.points * (2 if len(self.points) == 1 else 1))
        dashes = f' stroke-dasharray="{DASH:g} {GAP:g}"' if self.dashed and len(self.points) > 1 else ""
        return (
            f'<polyline points="{points}" fill="none" stroke="{self.colour}" stroke-width="{self.width:g}" '
            f'stroke-linecap="round" stroke-linejoin="round"{dashes}/>'
        )

    def paint(self, canvas: Float32[np.ndarray, "h w 3"]) -> None:
        pieces = _dashes(self.points) if self.dashed else pairwise(self.points)
        for start, end in pieces if len(self.points) > 1 else [(self.points[0], self.points[0])]:
            _stroke(canvas, np.array(start) * SCALE, np.array(end) * SCALE, self.width * SCALE / 2, self.colour)


@dataclass(frozen=True)
class Rect:
    x: Number
    y: Number
    width: Number
    height: Number
    colour: str

    def svg(self) -> str:
        return (
            f'<rect x="{self.x:.1f}" y="{self.y:.1f}" width="{self.width:.1f}" height="{self.height:.1f}" '
            f'fill="{self.colour}"/>'
        )

    def paint(self, canvas: Float32[np.ndarray, "h w 3"]) -> None:
        left, right, top, bottom = (
            round(SCALE * side) for side in (self.x, self.x + self.width, self.y, self.y + self.height)
        )
        canvas[max(0, top) : max(0, bottom), max(0, left) : max(0, right)] = _rgb(self.colour)


@dataclass(frozen=True)
class Text:
    """`x` and `y` are where its line begins, or its middle or its end, as `anchor` says."""

    x: Number
    y: Number
    content: str
    anchor: Anchor
    bold: bool
    colour: str

    def svg(self) -> str:
        anchor = "" if self.anchor == "start" else f' text-anchor="{self.anchor}"'
        weight = ' font-weight="bold"' if self.bold else ""
        return (
            f'<text x="{self.x:.1f}" y="{self.y:.1f}" fill="{self.colour}"{anchor}{weight}>'
            f"{escape(self.content)}</text>"
        )

    def paint(self, canvas: Float32[np.ndarray, "h w 3"]) -> None:
        dots = np.kron(font.dots(self.content), np.ones((SCALE, SCALE), dtype=bool))
        if self.bold:
            dots[:, 1:] |= dots[:, :-1].copy()
        left = round(SCALE * self.x - _ANCHORS[self.anchor] * dots.shape[1])
        top = round(SCALE * (self.y - font.BASELINE))
        rows, columns = np.nonzero(dots)
        rows, columns = rows + top, columns + left
        seen = (rows >= 0) & (rows < canvas.shape[0]) & (columns >= 0) & (columns < canvas.shape[1])
        canvas[rows[seen], columns[seen]] = _rgb(self.colour)


@dataclass
class Figure:
    """A page. What is drawn later lies over what was drawn before. Colours are written "#rrggbb"."""

    width: int
    height: int
    shapes: list[Line | Rect | Text] = field(default_factory=list)

    def line(self, points: Iterable[Point], colour: str, *, width: Number = 1.5, dashed: bool = False) -> None:
        if points := tuple(points):
            self.shapes.append(Line(points, colour, width, dashed))

    def rect(self, x: Number, y: Number, width: Number, height: Number, colour: str) -> None:
        self.shapes.append(Rect(x, y, width, height, colour))

    def text(
        self,
        x: Number,
        y: Number,
        content: str,
        *,
        anchor: Anchor = "start",
        bold: bool = False,
        colour: str = "#222222",
    ) -> None:
        self.shapes.append(Text(x, y, content, anchor, bold, colour))

    def svg(self) -> str:
        """The page as a file."""
        size = f'width="{self.width}" height="{self.height}" viewBox="0 0 {self.width} {self.height}"'
        head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-size="12" font-family="sans-serif">'
        paper = '<rect width="100%" height="100%" fill="#ffffff"/>'
        return "\n".join([head, paper, *(shape.svg() for shape in self.shapes), "</svg>\n"])

    def pixels(self) -> UInt8[np.ndarray, "h w 3"]:
        """The page as a picture, twice as wide and high."""
        canvas = np.full((SCALE * self.height, SCALE * self.width, 3), 255, dtype=np.float32)
        for shape in self.shapes:
            shape.paint(canvas)
        return canvas.round().astype(np.uint8)


def _rgb(colour: str) -> Float32[np.ndarray, "3"]:
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)], dtype=np.float32)


def _stroke(
    canvas: Float32[np.ndarray, "h w 3"], start: np.ndarray, end: np.ndarray, radius: float, colour: str
) -> None:
    """All pixels nearer to a straight piece than `radius`, those at its edge in part."""
    left, top = np.maximum(0, np.floor(np.minimum(start, end) - radius - 1)).astype(int)
    right, bottom = np.ceil(np.maximum(start, end) + radius + 1).astype(int)
    part = canvas[top : max(top, bottom), left : max(left, right)]
    y, x = np.mgrid[0 : part.shape[0], 0 : part.shape[1]]
    dx, dy = x + left + 0.5 - start[0], y + top + 0.5 - start[1]
    along = end - start
    share = np.clip((dx * along[0] + dy * along[1]) / max(float(along @ along), 1e-9), 0, 1)
    distance = np.hypot(dx - share * along[0], dy - share * along[1])
    cover = np.clip(radius + 0.5 - distance, 0, 1)[..., None]
    part += (cover * (_rgb(colour) - part)).astype(np.float32)


def _dashes(points: Sequence[Point]) -> list[tuple[Point, Point]]:
    """The pieces of a line that are drawn."""
    pieces, at, drawn = [], 0.0, True  # how far into this dash or gap
    for (x0, y0), (x1, y1) in pairwise(points):
        length, done = float(np.hypot(x1 - x0, y1 - y0)), 0.0
        while done < length:
            step = min(length - done, (DASH if drawn else GAP) - at)
            if drawn:
                a, b = done / length, (done + step) / length
                pieces.append(((x0 + a * (x1 - x0), y0 + a * (y1 - y0)), (x0 + b * (x1 - x0), y0 + b * (y1 - y0))))
            done, at = done + step, at + step
            if at >= (DASH if drawn else GAP) - 1e-9:
                at, drawn = 0.0, not drawn
    return pieces
