"""`cogvideox caption IN OUT --ladder FILE`: caption clips; `cogvideox caption report OUT`: the page that shows them."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from cogvideox.cli.arguments import Parser
from cogvideox.cli.messages import print_note
from cogvideox.errors import UserError

if TYPE_CHECKING:
    from cogvideox.curation.captions.run import CaptionProgress

PROGRESS_INTERVAL = 5.0  # seconds between progress lines


def run(arguments: list[str]) -> None:
    """Caption a folder, or write the report of one."""
    options = parser().parse(arguments)
    if options.source == Path("report"):
        _report(options)
        return
    if options.source is None or options.output is None or options.ladder is None:
        raise UserError("caption needs IN, OUT and --ladder FILE: clips, the folder to write to, and the ladder")
    if options.limit is not None and options.limit < 1:
        raise UserError(f"--limit {options.limit} must be 1 or more")

    from cogvideox import config
    from cogvideox.cli.writable import check_writable
    from cogvideox.curation.captions.config import Ladder
    from cogvideox.curation.captions.outputs import CAPTIONS
    from cogvideox.curation.captions.run import caption_folder
    from cogvideox.llm.limits import Budget

    ladder = config.load(Ladder, options.ladder)
    if options.budget is not None:
        budget = config.to_dict(ladder.budget) | {"cost": options.budget}
        ladder = config.from_dict(Ladder, config.to_dict(ladder) | {"budget": config.to_dict(Budget(**budget))})
    check_writable(options.output / CAPTIONS, 2**20)
    result = caption_folder(
        options.source,
        options.output,
        ladder,
        limit=options.limit,
        retry_failed=options.retry_failed,
        on_progress=ProgressPrinter(),
    )
    for name, needs in result.missing.items():
        print_note(f"{name} was not measured: it needs {', '.join(needs)}")
    print(", ".join(f"{number} {status}" for status, number in sorted(result.statuses.items())))
    for rung, problems in result.problems.items():
        listed = ", ".join(f"{kind} {number}" for kind, number in sorted(problems.items()))
        print(f"  {rung}: {listed or 'no problems'}")
    usage = result.usage
    print(
        f"{usage.calls} calls, {usage.cached} stored responses reused, {usage.prompt_tokens} + "
        f"{usage.completion_tokens} tokens, cost {usage.cost:.4g}; all runs: {result.spent.calls} calls, cost "
        f"{result.spent.cost:.4g}; {result.seconds:.1f} s"
    )
    if result.spent.unknown:
        print_note(f"{result.spent.unknown} calls were in progress when a run was killed; they may have been paid")
    print(f"{options.output / CAPTIONS} has all captions; `cogvideox caption report {options.output}` shows them")


def _report(options) -> None:
    if options.output is None:
        raise UserError("caption report needs OUT, the folder that `cogvideox caption` wrote")
    from cogvideox.curation.captions.page import write_page

    print(write_page(options.output, options.limit or 100))
    if options.questions is not None or options.references is not None:
        from cogvideox.curation.captions.quality.report import measure_quality

        for line in measure_quality(
            options.output, options.questions, options.judge, options.references, options.encoder
        ):
            print(line)


class ProgressPrinter:
    """Prints progress to stderr at intervals."""

    def __init__(self) -> None:
        self._next = time.monotonic() + PROGRESS_INTERVAL

    def __call__(self, progress: "CaptionProgress") -> None:
        """Print a line if the interval is over."""
        if time.monotonic() < self._next:
            return
        from cogvideox.formatting import format_duration

        self._next = time.monotonic() + PROGRESS_INTERVAL
        left = "" if progress.seconds_left is None else f", {format_duration(progress.seconds_left)} left"
        usage = progress.usage
        print(
            f"clips: {progress.known + progress.done} of {progress.clips}, {usage.calls} calls, "
            f"{progress.tokens_per_second:.1f} tokens/s, cost {usage.cost:.4g}{left}",
            file=sys.stderr,
            flush=True,
        )


def parser() -> Parser:
    """Return the argument parser."""
    p = Parser(
        "caption",
        "IN OUT --ladder FILE | report OUT",
        "Caption the clips of IN (a folder that `curate` wrote, or any folder of videos and images) by the rungs of a "
        "ladder: short caption, captions of frames, summary. OUT then has captions.parquet (all captions and what is "
        "wrong with them) and metadata.parquet (clips with usable captions; `encode OUT` and `train` read it). Every "
        "response of a model is stored, so a run that was stopped goes on where it was. `caption report OUT` writes "
        "OUT/captions.html, which shows clips with all captions side by side.",
    )
    p.add_argument("source", nargs="?", type=Path, metavar="IN", help="folder with the clips")
    p.add_argument("output", nargs="?", type=Path, metavar="OUT", help="folder to write to")
    p.add_argument("--ladder", type=Path, metavar="FILE", help="models, rungs and checks, as YAML or JSON")
    p.add_argument("--limit", type=int, metavar="N", help="caption, or show, at most N clips")
    p.add_argument("--budget", type=float, metavar="COST", help="largest cost of all calls; replaces budget.cost")
    quality = p.add_argument_group("quality, for caption report")
    quality.add_argument("--questions", type=Path, metavar="FILE", help="JSON of questions and answers about clips")
    quality.add_argument("--judge", type=Path, metavar="FILE", help="model that answers and grades, as YAML or JSON")
    quality.add_argument("--references", type=Path, metavar="FILE", help="JSON object of reference captions by clip")
    quality.add_argument("--encoder", type=Path, metavar="FOLDER", help="sentence encoder, such as all-MiniLM-L6-v2")
    p.add_argument("--retry-failed", action="store_true", help="try again what failed in earlier runs")
    return p
