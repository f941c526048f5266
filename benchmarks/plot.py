"""Charts of benchmark reports: speed relative to diffusers, or PSNR against speed-up if variants change the video.

python benchmarks/plot.py benchmarks/results/*.json --out docs/results/benchmarks.svg
python benchmarks/plot.py benchmarks/results/step-cache-*.json --curves --out docs/results/step-cache.svg
"""

import argparse
import json
from pathlib import Path

from common import Report

from cogvideox.training.metrics.charts import Curve, chart, draw, legend

COLORS = {True: "#2a7f62", False: "#b5533c"}  # whether the variant is at least as fast as the reference
FAMILIES = {
    "cache": ("--cache", "#2a7f62"),
    "steps": ("fewer steps", "#b5533c"),
    "guidance": ("guidance interval", "#4a5fa5"),
}
"""Groups of variants, by a word in their names: label and color."""


def bars(reports: list[Report], path: Path) -> None:
    """Draw a group of bars for each row that is compared to diffusers."""
    rows = [
        row
        for report in reports
        for row in report["rows"]
        if row["reference"] == "diffusers" and compared_variants(row)
    ]
    variants, tasks, y = {}, {}, 0  # keys are positions on the y axis, which points down
    for row in rows:
        tasks[y] = row["task"]
        compared = compared_variants(row)
        variants |= {y + i: (name, variant["ratio"]) for i, (name, variant) in enumerate(compared.items(), start=1)}
        y += len(compared) + 1
    ratios = [ratio for _, ratio in variants.values()]
    with chart(path, 8.5, 0.22 * y + 0.6) as figure:
        axes = figure.subplots()
        axes.axvline(1, color="#444444", linestyle="--", linewidth=1)
        bar_container = axes.barh(list(variants), ratios, color=[COLORS[ratio >= 1] for ratio in ratios])
        axes.bar_label(bar_container, fmt="%.2fx", padding=3)
        axes.set_yticks(list(variants), [name for name, _ in variants.values()])
        for position, task in tasks.items():
            box = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # hides the line at 1 behind the text
            axes.text(0.05, position, task, weight="bold", verticalalignment="center", bbox=box)
        axes.set_ylim(y - 0.5, -0.5)
        axes.set_xlabel("speed relative to diffusers (above 1 is faster)")
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False)
        axes.margins(x=0.1)


def curves(reports: list[Report], path: Path) -> None:
    """Draw a panel per row: PSNR against speed-up for each group of variants, for the median and the worst video."""
    rows = [row for report in reports for row in report["rows"]]
    num_panel_rows = (len(rows) + 1) // 2
    with chart(path, 8.6, 2.8 * num_panel_rows + 0.5) as figure:
        grid = figure.subplots(num_panel_rows, 2, squeeze=False).flat
        for axes, row in zip(grid, rows, strict=False):
            lines = []
            for family, (_, color) in FAMILIES.items():
                variants = [
                    variant
                    for name, variant in row["variants"].items()
                    if family in name.split() and variant.get("psnr_db")
                ]
                for column, dashed in (("psnr_db", False), ("lowest_db", True)):
                    lines.append(
                        Curve(sorted((variant["ratio"], variant[column]) for variant in variants), color, dashed)
                    )
            draw(axes, row["task"], lines)
            axes.set_xlabel("speed-up")
            axes.set_ylabel("PSNR in dB")
        for axes in grid[len(rows) :]:
            axes.set_axis_off()
        entries = [(label, Curve((), color)) for label, color in FAMILIES.values()]
        legend(figure, [*entries, ("worst video", Curve((), "#888888", dashed=True))], columns=len(entries) + 1)


def compared_variants(row: Report) -> dict[str, Report]:
    """Return the variants other than the reference that have a ratio."""
    return {
        name: variant for name, variant in row["variants"].items() if name != row["reference"] and variant.get("ratio")
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="path of an SVG or PNG file")
    parser.add_argument("--curves", action="store_true", help="plot PSNR against speed-up")
    options = parser.parse_args()
    reports = [json.loads(file.read_text(encoding="utf-8")) for file in options.reports]
    comparisons = [report for report in reports if isinstance(report.get("rows"), list)]
    (curves if options.curves else bars)(comparisons, options.out)
    print(options.out)


if __name__ == "__main__":
    main()
