"""The ratios of reports as a picture: a bar for each way of doing a task, 1 being diffusers in the same run.

python benchmarks/plot.py benchmarks/results/*.json --out docs/results/benchmarks.svg
"""

import argparse
import json
from html import escape
from pathlib import Path

from common import Report

BAR, GAP, LABEL, PLOT = 16, 6, 330, 420  # pixels
COLOURS = {True: "#2a7f62", False: "#b5533c"}  # faster than the reference, or not


def svg(reports: list[Report]) -> str:
    """One group of bars for each row that compares with diffusers."""
    rows = [row for report in reports for row in report["rows"] if row["reference"] == "diffusers" and compared(row)]
    longest = max((way["ratio"] for row in rows for way in compared(row).values()), default=1.0)
    scale = PLOT / max(longest * 1.15, 1.5)
    parts, y = [], 30
    for row in rows:
        parts.append(text(8, y + 12, row["task"], "bold"))
        y += BAR + GAP
        for name, way in compared(row).items():
            width = way["ratio"] * scale
            colour = COLOURS[way["ratio"] >= 1]
            parts.append(text(20, y + 12, name))
            parts.append(f'<rect x="{LABEL}" y="{y}" width="{width:.1f}" height="{BAR}" fill="{colour}"/>')
            parts.append(text(LABEL + width + 5, y + 12, f"{way['ratio']:.2f}x"))
            y += BAR + GAP
        y += GAP
    one = LABEL + scale
    parts.append(f'<line x1="{one:.1f}" x2="{one:.1f}" y1="22" y2="{y}" stroke="#444" stroke-dasharray="4 3"/>')
    parts.append(text(one + 4, 16, "1 = diffusers; longer is faster"))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{LABEL + PLOT + 60}" height="{y + 10}" font-size="12"'
    return "\n".join(
        [f'{head} font-family="sans-serif">', '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>\n"]
    )


def compared(row: Report) -> dict[str, Report]:
    """The ways beside the reference that have a ratio."""
    return {name: way for name, way in row["ways"].items() if name != row["reference"] and way.get("ratio")}


def text(x: float, y: float, content: str, weight: str = "normal") -> str:
    return f'<text x="{x:.1f}" y="{y}" font-weight="{weight}">{escape(content)}</text>'


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
