"""The report of an ablation as Markdown. Imports no torch."""

from collections.abc import Iterable, Sequence

from cogvideox.ablation.report.summary import AblationSummary, ArmSummary, FindingSummary, MetricSummary
from cogvideox.ablation.scores.metrics import metric_of, title_of
from cogvideox.formatting import format_duration


def page(summary: AblationSummary, *, level: int = 1, images: bool = True) -> str:
    """Return the report: the arms, a table of metrics, and the paper's findings beside ours.

    Args:
        level: level of the title's heading.
        images: link the charts `loss.png` and `samples.png`.
    """
    arms = summary.arms
    lines = [f"{'#' * level} {summary.ablation}", "", summary.question, ""]
    lines += [_setup(summary), ""]
    tokens = "pixels per step" if summary.is_vae else "tokens per step"
    lines += table(("arm", "changes", "steps", "parameters", tokens, "compute"), [_arm_row(arm) for arm in arms])
    lines += [
        "",
        f"Means over {summary.num_seeds} seeds. Below them: the difference from the baseline, {arms[0].name}, with its "
        "95 % interval, paired over seeds and over clips or prompts.",
    ]
    lines += ["", *table(("metric", *(arm.name for arm in arms)), _metric_rows(arms))]
    if summary.findings:
        header = ("the paper", "source", "measured by", "advantage here", "verdict")
        lines += ["", *table(header, map(_finding_row, summary.findings))]
    if summary.limits:
        lines += ["", f"Differences from the paper: {summary.limits}"]
    if images:
        lines += ["", "![training loss](loss.png)", "", "![samples of the first seed](samples.png)"]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    lines = [f"| {' | '.join(header)} |", f"| {' | '.join('---' for _ in header)} |"]
    return lines + [f"| {' | '.join(row)} |" for row in rows]


def _setup(summary: AblationSummary) -> str:
    machine = summary.environment.get("processor", "")
    return (
        f"The arms differ in `{summary.field}`. Equal in all arms: {', '.join(summary.equal)}. Requested: "
        f"{summary.requested} per run. Training took {format_duration(summary.seconds)} in all, one thread per run"
        + (f", on {machine}." if machine else ".")
    )


def _arm_row(arm: ArmSummary) -> tuple[str, ...]:
    changes = "<br>".join(f"`{change}`" for change in arm.changes) or "baseline"
    if arm.other_changes:
        changes += f"<br>{arm.other_changes}"
    steps = " + ".join(map(str, arm.steps))
    return arm.name, changes, steps, f"{arm.parameters:,}", f"{arm.tokens:,.0f}", f"{arm.compute:.2f}"


def _metric_rows(arms: Sequence[ArmSummary]) -> list[tuple[str, ...]]:
    names = [name for name in arms[0].metrics if any(arm.metrics[name].mean is not None for arm in arms)]
    return [(title_of(name), *(_cell(name, arm.metrics[name]) for arm in arms)) for name in names]


def _cell(name: str, summary: MetricSummary) -> str:
    if summary.mean is None:
        return ""
    metric = metric_of(name)

    def shown(value: float, sign: str = "") -> str:
        return f"{value * metric.scale:{sign}.{metric.digits}f}"

    cell = shown(summary.mean)
    if summary.difference:
        value, *limits = (shown(number, "+") for number in summary.difference)
        cell += f"<br>{value}" + (f" ({limits[0]} to {limits[1]})" if limits else "")
    return cell


def _finding_row(finding: FindingSummary) -> tuple[str, ...]:
    metric, advantage = metric_of(finding.metric), "not measured"
    if finding.advantage is not None:
        numbers = [f"{number * metric.scale:+.{metric.digits}f}" for number in (finding.advantage, *finding.interval)]
        advantage = numbers[0] + (f" ({numbers[1]} to {numbers[2]})" if len(numbers) == 3 else "")
    measured = f"{title_of(finding.metric)}: {finding.better} vs. {finding.worse}"
    return finding.claim, finding.source, measured, advantage, f"**{finding.verdict}**"
