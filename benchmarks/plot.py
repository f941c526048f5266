"""Reports as a picture: a bar for each way of doing a task, 1 being diffusers in the same run; or, of ways that change
the video, how far they lead from it against how much faster they are.

python benchmarks/plot.py benchmarks/results/*.json --out docs/results/benchmarks.svg
python benchmarks/plot.py benchmarks/results/step-cache-*.json --curves --out docs/results/step-cache.svg
"""

import argparse
import json
from pathlib import Path

from common import Report

from cogvideox.drawing.chart import Curve, panel
from cogvideox.drawing.figure import Figure

BAR, GAP, LABEL, PLOT = 16, 6, 330, 420  # pixels
COLOURS = {True: "#2a7f62", False: "#b5533c"}  # faster than the reference, or not
PANEL, HEAD = (430, 280), 36  # pixels
FAMILIES = {"cache": ("--cache", "#2a7f62"), "steps": ("fewer steps", "#b5533c"), "guidance": ("interval", "#4a5fa5")}
"""Ways that differ by a number, by a word of their names."""


def svg(reports: list[Report]) -> str:
    """One group of bars for each row that compares with diffusers."""
    rows = [row for report in reports for row in report["rows"] if row["reference"] == "diffusers" and compared(row)]
    longest = max((way["ratio"] for row in rows for way in compared(row).values()), default=1.0)
    scale = PLOT / max(longest * 1.15, 1.5)
    figure, y = Figure(LABEL + PLOT + 60, 0), 30
    for row in rows:
        figure.text(8, y + 12, row["task"], bold=True)
        y += BAR + GAP
        for name, way in compared(row).items():
            width = way["ratio"] * scale
            figure.text(20, y + 12, name)
            figure.rect(LABEL, y, width, BAR, COLOURS[way["ratio"] >= 1])
            figure.text(LABEL + width + 5, y + 12, f"{way['ratio']:.2f}x")
            y += BAR + GAP
        y += GAP
    one, figure.height = LABEL + scale, y + 10
    figure.line([(one, 22), (one, y)], "#444444", width=1, dashed=True)
    figure.text(one + 4, 16, "1 = diffusers; longer is faster")
    return figure.svg()


def curves(reports: list[Report]) -> str:
    """A panel for each row: PSNR against ratio, of each family of ways; the median video in full, the worst dashed."""
    rows = [row for report in reports for row in report["rows"]]
    figure, x = Figure(2 * PANEL[0], HEAD + (len(rows) + 1) // 2 * PANEL[1]), 16
    for words, colour in FAMILIES.values():
        figure.line([(x, 16), (x + 24, 16)], colour)
        figure.text(x + 30, 20, words)
        x += 140
    figure.text(x, 20, "PSNR in dB over the speed-up: median video, dashed the worst")
    for number, row in enumerate(rows):
        lines = []
        for family, (_, colour) in FAMILIES.items():
            ways = [way for name, way in row["ways"].items() if family in name.split() and way.get("psnr_db")]
            for which, dashed in (("psnr_db", False), ("lowest_db", True)):
                lines.append(Curve(sorted((way["ratio"], way[which]) for way in ways), colour, dashed))
        panel(figure, number % 2 * PANEL[0], HEAD + number // 2 * PANEL[1], *PANEL, row["task"], lines)
    return figure.svg()


def compared(row: Report) -> dict[str, Report]:
    """The ways beside the reference that have a ratio."""
    return {name: way for name, way in row["ways"].items() if name != row["reference"] and way.get("ratio")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="an SVG file")
    parser.add_argument("--curves", action="store_true", help="of ways that change the video")
    options = parser.parse_args()
    draw = curves if options.curves else svg
    reports = [json.loads(file.read_text(encoding="utf-8")) for file in options.reports]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(draw([report for report in reports if "rows" in report]), encoding="utf-8")
    print(options.out)


if __name__ == "__main__":
    main()
