"""Charts of the report as inline SVG, which follows the page's colors and scales with it."""

import html
import math
from collections.abc import Mapping, Sequence

from cogvideox.records import Score

COLORS = ("#3b6ea8", "#c2603f", "#4f9a5b", "#8a62b5", "#b3902f", "#3a9aa5", "#b5527f", "#7a7a7a")
_SIZE, _RADIUS, _MARGIN = 400, 160, 80


def interval_bar(score: Score) -> str:
    """Draw a fraction and its interval on a line from 0 to 1."""
    if math.isnan(score.value):
        return ""
    low, high = score.interval or (score.value, score.value)
    width = 120
    return (
        f"<svg viewBox='0 0 {width} 10' width='{width}' height='10' style='display:block' role='img' "
        f"aria-label='interval'><line class='grid' x1='0' x2='{width}' y1='5' y2='5'/>"
        f"<line class='bar' stroke-width='3' x1='{low * width:.1f}' x2='{high * width:.1f}' y1='5' y2='5'/>"
        f"<circle class='dot' r='3.5' cx='{score.value * width:.1f}' cy='5'/></svg>"
    )


def radar(names: Sequence[str], series: Mapping[str, Mapping[str, float]]) -> str:
    """Draw values in 0..1 on one axis per name, and a polygon per series. Missing values are omitted."""
    center = _SIZE / 2
    angles = [2 * math.pi * i / len(names) - math.pi / 2 for i in range(len(names))]

    def point(angle: float, value: float) -> str:
        return f"{center + value * _RADIUS * math.cos(angle):.1f},{center + value * _RADIUS * math.sin(angle):.1f}"

    parts = [
        f"<polygon class='grid' points='{' '.join(point(angle, level) for angle in angles)}'/>"
        for level in (0.25, 0.5, 0.75, 1.0)
    ]
    for angle, name in zip(angles, names):
        x, y = point(angle, 1.12).split(",")
        anchor = "middle" if abs(math.cos(angle)) < 0.3 else "start" if math.cos(angle) > 0 else "end"
        parts.append(f"<polyline class='grid' points='{point(angle, 0.0)} {point(angle, 1.0)}'/>")
        parts.append(
            f"<text x='{x}' y='{y}' text-anchor='{anchor}'>{html.escape(name.partition('/')[2] or name)}</text>"
        )
    legend = []
    for i, (title, values) in enumerate(series.items()):
        color = COLORS[i % len(COLORS)]
        known = [(angle, name) for angle, name in zip(angles, names) if not math.isnan(values.get(name, math.nan))]
        points = " ".join(point(angle, min(max(values[name], 0.0), 1.0)) for angle, name in known)
        parts.append(
            f"<polygon points='{points}' fill='{color}' fill-opacity='0.08' stroke='{color}' stroke-width='2'>"
            f"<title>{html.escape(title)}</title></polygon>"
        )
        legend.append(f"<span style='color:{color}'>&#9632;</span> {html.escape(title)}")
    width = _SIZE + 2 * _MARGIN
    return (
        f"<svg viewBox='{-_MARGIN} 0 {width} {_SIZE}' width='{width}' style='max-width:100%' role='img' "
        f"aria-label='radar chart'>{''.join(parts)}</svg><p>{' &nbsp; '.join(legend)}</p>"
    )
