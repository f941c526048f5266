"""`cogvideox ablate NAME`: repeat an ablation of the paper at small scale, with a report."""

import math
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cogvideox.cli.common.arguments import Parser, nearest
from cogvideox.errors import UserError

if TYPE_CHECKING:
    from cogvideox.ablation.arm import Ablation
    from cogvideox.ablation.plan import AblationPlan

UNFINISHED = 75
"""Exit status of an ablation whose runs are saved but not finished: EX_TEMPFAIL of sysexits.h."""
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


def run(arguments: list[str]) -> None:
    """Plan the ablation, finish its runs, and write the report. Exits with status 75 if a signal stopped it."""
    options = parser().parse(arguments)
    if options.list:
        print(list_ablations())
        return
    if options.name is None:
        raise UserError("missing NAME: `cogvideox ablate --list` lists the ablations")
    if options.seeds < 1:
        raise UserError(f"--seeds {options.seeds} must be 1 or more; 3 give an interval over seeds")
    if options.steps is not None and options.steps < 1:
        raise UserError(f"--steps {options.steps} must be 1 or more")
    if options.steps is not None and options.budget is not None:
        raise UserError("--steps and --budget both set the length of the runs: remove one of them")
    if options.workers < 0:
        raise UserError(f"--workers {options.workers} must be 0 or more")
    if options.shard is not None and options.executor != "local":
        raise UserError("--shard is a job of a job array, which needs no other executor: remove --executor")
    budget = parse_duration("20m" if options.budget is None else options.budget)
    ablate(
        options.name,
        options.out or Path("runs/ablations") / options.name,
        seeds=options.seeds,
        budget=None if options.steps is not None else budget,
        steps=options.steps,
        workers=options.workers,
        executor=options.executor,
        shard=options.shard,
        dry_run=options.dry_run,
    )


def ablate(
    name: str,
    out: Path,
    *,
    seeds: int,
    budget: float | None,
    steps: int | None,
    workers: int = 0,
    executor: str = "local",
    shard: str | None = None,
    dry_run: bool = False,
) -> None:
    """Run the ablation `name` in the folder `out`.

    Args:
        budget: mean training time of a run in seconds; None with `steps`, the number of steps of the baseline.
        shard: "K/N": job K of N, which share `out`.
        dry_run: measure and print the plan only.

    Raises:
        UserError: an unknown ablation, or a folder with a different one; see also `run_ablation`.
        SystemExit: a signal stopped a training, which was saved (status 75).
    """
    from cogvideox.ablation.registry import ABLATIONS, get_ablation

    if name not in ABLATIONS:
        raise UserError(f"unknown ablation {name!r}{nearest(name, ABLATIONS)}; available: {', '.join(ABLATIONS)}")

    from cogvideox.ablation.planner import plan_ablation
    from cogvideox.ablation.report.write import write_report
    from cogvideox.ablation.run import prepare, run_ablation
    from cogvideox.ablation.runs import AblationStopped
    from cogvideox.executor.job_array import Shard
    from cogvideox.progress import ProgressLines

    ablation = get_ablation(name)
    part = Shard() if shard is None else Shard.parse(shard)

    def on_run(file: Path, done: int, total: int) -> None:
        print(f"{done} of {total} runs finished: {file}", flush=True)

    try:
        prepare(ablation, out, ProgressLines(lambda line: print(line, file=sys.stderr, flush=True)))
        plan = plan_ablation(ablation, out, num_seeds=seeds, budget=budget, num_steps=steps)
        print("\n".join(describe_plan(ablation, plan)), flush=True)
        if dry_run:
            return
        backend = "ray" if executor == "ray" else "local"
        finished = run_ablation(ablation, plan, out, workers=workers, backend=backend, shard=part, on_run=on_run)
    except AblationStopped:
        print(f"the ablation in {out} is saved but not finished; continue it with the same command", file=sys.stderr)
        raise SystemExit(UNFINISHED) from None
    if finished:
        print(write_report(ablation, plan, out))
    else:
        print("runs of other jobs are missing; the last job to finish writes the report")


def describe_plan(ablation: "Ablation", plan: "AblationPlan") -> list[str]:
    """Return the lines that describe a plan: the steps of each arm and the predicted hours."""
    from cogvideox.formatting import format_duration

    seeds = "1 seed" if plan.num_seeds == 1 else f"{plan.num_seeds} seeds"
    lines = [f"{ablation.name}: {len(ablation.arms)} arms x {seeds}; they differ in {ablation.field}"]
    width = max(len(arm.name) for arm in ablation.arms)
    for arm in ablation.arms:
        steps = " + ".join(str(plan.num_steps(stage)) for stage in arm.stages)
        seconds = f", {format_duration(plan.seconds[arm.name])} per run" if arm.name in plan.seconds else ""
        lines.append(f"  {arm.name:<{width}}  {steps} steps{seconds}")
    if plan.seconds:
        lines.append(f"predicted time of all runs, one after the other: {plan.total_seconds / 3600:.2g} h")
    return lines


def list_ablations() -> str:
    """Return a line for each ablation and its arms."""
    from cogvideox.ablation.registry import ABLATIONS

    lines = []
    for name, make in ABLATIONS.items():
        ablation = make()
        lines += [f"{name:<13} {ablation.question}", f"{'':<13} arms: {'; '.join(arm.name for arm in ablation.arms)}"]
    return "\n".join(lines)


def parse_duration(text: str) -> float:
    """Parse a duration such as "90s", "20m" or "1.5h" to seconds.

    Raises:
        UserError: the string has a different format, or is not above 0.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip())
    seconds = float(match[1]) * _UNITS[match[2]] if match else math.nan
    if not 0 < seconds < math.inf:
        raise UserError(f"--budget {text} is not a duration above 0: write it as 90s, 20m or 1.5h")
    return seconds


def parser() -> Parser:
    """Return the argument parser."""
    p = Parser(
        "ablate",
        "NAME",
        "Repeat an ablation of the paper at small scale: train every arm with several seeds, score the results, and "
        "write report.md with paired intervals beside the paper's findings. An interrupted ablation continues.",
    )
    p.add_argument("name", nargs="?", metavar="NAME", help="ablation to run; see --list")
    p.add_argument("--list", action="store_true", help="list the ablations and their arms, and exit")
    p.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds of each arm (default: 3)")
    p.add_argument(
        "--budget", metavar="TIME", help="mean training time of a run, such as 90s, 20m or 1.5h (default: 20m)"
    )
    p.add_argument("--steps", type=int, metavar="N", help="training steps of the baseline, instead of a budget")
    p.add_argument("--out", type=Path, metavar="DIR", help="folder to write to (default: runs/ablations/NAME)")
    p.add_argument("--dry-run", action="store_true", help="time a few steps, print the plan, and exit")
    machine = p.add_argument_group("machine")
    workers = "worker processes, each with a run of its own (default: 0, no extra process)"
    machine.add_argument("--workers", type=int, default=0, metavar="N", help=workers)
    executors = "local processes, or a Ray cluster with a shared file system (default: local)"
    machine.add_argument("--executor", choices=("local", "ray"), default="local", help=executors)
    shard = "finish every N-th run, starting with run K (0-based), as a job of a job array"
    machine.add_argument("--shard", metavar="K/N", help=shard)
    return p
