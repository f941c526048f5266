"""The report of an evaluation."""

from pathlib import Path

from cogvideox.atomic_io import write_text
from cogvideox.evaluation.report.tables import comma_separated, markdown
from cogvideox.evaluation.results import Results
from cogvideox.evaluation.suites.suite import Suite


def write_report(folder: Path, results: Results, suite: Suite) -> Path:
    """Write `report.md` and `scores.csv`."""
    write_text(folder / "report.md", markdown(results, suite.published, suite.source))
    write_text(folder / "scores.csv", comma_separated(results))
    return folder / "report.md"
