"""The ratios of reports as a picture: a bar for each way of doing a task, 1 being diffusers in the same run.

python benchmarks/plot.py benchmarks/results/*.json --out docs/results/benchmarks.svg
"""

import argparse
import json
from pathlib import Path

from common import Report

from cogvideox.drawing.figure import Figure

BAR, GAP, LABEL, PLOT = 16, 6, 330, 420  # pixels
COLOURS = {True: "#2a7f62", False: "#b5533c"}  # faster than the reference, or not


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


def compared(row: Report) -> dict[str, Report]:
    """The ways beside the reference that have a ratio."""
    return {name: way for name, way in row["ways"].items() if name != row["reference"] and way.get("ratio")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="an SVG file")
    options = parser.parse_args()
    reports = [json.loads(file.read_text(encoding="utf-8")) for file in options.reports]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(svg([report for report in reports if "rows" in report]), encoding="utf-8")
    print(options.out)


if __name__ == "__main__":
    main()
