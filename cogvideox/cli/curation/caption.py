"""`cogvideox caption IN OUT --pipeline FILE`: caption clips.

`cogvideox caption report OUT` writes an HTML report, and `cogvideox caption regenerate OUT` generates a video of each
caption.
"""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cogvideox.cli.common.arguments import Parser
from cogvideox.cli.common.messages import print_note
from cogvideox.errors import UserError

if TYPE_CHECKING:
    from cogvideox.curation.captions.run import CaptionProgress

PROGRESS_INTERVAL = 5.0  # seconds between progress lines


def run(arguments: list[str]) -> None:
    """Caption a folder, report on a captioned folder, or generate videos from its captions."""
    options = parser().parse(arguments)
    if options.limit is not None and options.limit < 1:
        raise UserError(f"--limit {options.limit} must be 1 or more")
    if options.model is not None and options.source != Path("regenerate"):
        raise UserError("--model is an option of caption regenerate")
    if options.source == Path("regenerate"):
        others = ("pipeline", "budget", "questions", "judge", "references", "encoder")
        has_others = options.retry_failed or any(getattr(options, name) is not None for name in others)
        if has_others or options.output is None:
            raise UserError("caption regenerate needs OUT, and accepts only --model and --limit")
        _regenerate(options)
        return
    if options.source == Path("report"):
        if options.pipeline is not None or options.budget is not None or options.retry_failed:
            raise UserError("caption report does not write captions: remove --pipeline, --budget and --retry-failed")
        if (options.judge and not options.questions) or (options.encoder and not options.references):
            raise UserError("--judge needs --questions, and --encoder needs --references")
        _report(options)
        return
    if options.questions or options.judge or options.references or options.encoder:
        raise UserError("--questions, --judge, --references and --encoder are options of caption report")
    if options.source is None or options.output is None or options.pipeline is None:
        raise UserError("caption needs IN, OUT and --pipeline FILE: a folder of clips, an output folder and a config")

    from dataclasses import replace

    from cogvideox import config
    from cogvideox.cli.common.writable import check_writable
    from cogvideox.curation.captions.config import CaptionPipelineConfig
    from cogvideox.curation.captions.outputs import CAPTIONS
    from cogvideox.curation.captions.run import caption_folder

    pipeline_config = config.load(CaptionPipelineConfig, options.pipeline)
    if options.budget is not None:
        pipeline_config = replace(pipeline_config, budget=replace(pipeline_config.budget, cost=options.budget))
    check_writable(options.output / CAPTIONS, 2**20)
    result = caption_folder(
        options.source,
        options.output,
        pipeline_config,
        limit=options.limit,
        retry_failed=options.retry_failed,
        on_progress=ProgressPrinter(),
    )
    for name, requirements in result.missing.items():
        print_note(f"{name} was not measured: missing {', '.join(requirements)}")
    print(", ".join(f"{number} {status}" for status, number in sorted(result.statuses.items())))
    for stage, problems in result.problems.items():
        listed = ", ".join(f"{kind} {number}" for kind, number in sorted(problems.items()))
        print(f"  {stage}: {listed or 'no problems'}")
    usage = result.usage
    print(
        f"{usage.calls} calls, {usage.cached} stored responses reused, {usage.prompt_tokens} + "
        f"{usage.completion_tokens} tokens, cost {usage.cost:.4g}; all runs: {result.spent.calls} calls, cost "
        f"{result.spent.cost:.4g}; {result.seconds:.1f} s"
    )
    if result.spent.unknown:
        calls = f"{result.spent.unknown} calls have no answer (timeouts, broken connections or a killed process)"
        print_note(f"{calls}; they may have been charged, and count with their maximum cost")
    if usage.estimated:
        print_note(f"{usage.estimated} answers had no token counts; their tokens and cost are estimated")
    print(f"{options.output / CAPTIONS} contains all captions; view: `cogvideox caption report {options.output}`")


def _report(options) -> None:
    if options.output is None:
        raise UserError("caption report needs OUT, the output folder of `cogvideox caption`")
    from cogvideox.curation.captions.page import write_page

    print(write_page(options.output, options.limit or 100))
    if options.questions is not None or options.references is not None:
        from cogvideox.curation.captions.quality.report import measure_quality

        for line in measure_quality(
            options.output, options.questions, options.judge, options.references, options.encoder
        ):
            print(line)


def _regenerate(options) -> None:
    import json
    from dataclasses import asdict

    from cogvideox.atomic_io import write_text
    from cogvideox.curation.captions.captioned_folder import captioned_clips
    from cogvideox.evaluation.regeneration import agreement, regenerate
    from cogvideox.generation.pipeline import CogVideoX

    clips = captioned_clips([str(options.output)])[: options.limit]
    pipe = CogVideoX.from_pretrained(options.model or "toybox")

    def generate(prompt: str, seed: int) -> Any:
        video = pipe.generate(prompt, seed=seed)
        assert not isinstance(video, list)
        return video.frames

    results = regenerate(
        clips,
        generate,
        pipe.settings.fps,
        on_video=lambda result: print(f"{result.caption}: {result.error or result.generated}", flush=True),
    )
    scores = agreement(results)
    control = agreement(results, shift=1) if len(results) > 1 else {}  # a single clip has no other caption
    for name, score in scores.items():
        low, high = score.interval or (score.value, score.value)
        other = f"; videos of other captions {control[name].value:.3f}" if control else ""
        print(f"{name}: {score.value:.3f} [{low:.3f}, {high:.3f}]{other}")
    data = {
        "agreement": {name: asdict(score) for name, score in scores.items()},
        "control": {name: asdict(score) for name, score in control.items()},
        "clips": [asdict(result) for result in results],
    }
    write_text(options.output / "regeneration.json", json.dumps(data, indent=2) + "\n")


class ProgressPrinter:
    """Prints progress to stderr every `PROGRESS_INTERVAL` seconds."""

    def __init__(self) -> None:
        self._next = time.monotonic() + PROGRESS_INTERVAL

    def __call__(self, progress: "CaptionProgress") -> None:
        """Print a progress line if the interval has elapsed."""
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
        "IN OUT --pipeline FILE | report OUT | regenerate OUT",
        "Caption the clips of IN (an output folder of `curate`, or any folder of videos and images) in up to four "
        "stages: short caption, frame captions, summary, direct caption. Writes captions.parquet (all captions and "
        "their problems) and metadata.parquet (clips with usable captions, for `encode OUT` and `train`) to OUT. Every "
        "model response is stored, so an interrupted run resumes. `caption report OUT` writes OUT/captions.html with "
        "all captions side by side. `caption regenerate OUT` generates a video of each caption and compares the "
        "facts that the toybox judge reads in both (appendix I).",
    )
    p.add_argument("source", nargs="?", type=Path, metavar="IN", help="folder with the clips")
    p.add_argument("output", nargs="?", type=Path, metavar="OUT", help="output folder")
    p.add_argument("--pipeline", type=Path, metavar="FILE", help="config of models, stages and checks, as YAML or JSON")
    p.add_argument("--limit", type=int, metavar="N", help="maximum number of clips to caption, show or regenerate")
    p.add_argument("--budget", type=float, metavar="COST", help="maximum total cost of all calls; replaces budget.cost")
    quality = p.add_argument_group("quality, for caption report")
    quality.add_argument("--questions", type=Path, metavar="FILE", help="questions with reference answers, as JSON")
    quality.add_argument("--judge", type=Path, metavar="FILE", help="model that answers and grades, as YAML or JSON")
    quality.add_argument("--references", type=Path, metavar="FILE", help="JSON object of reference captions by clip")
    quality.add_argument("--encoder", type=Path, metavar="FOLDER", help="sentence encoder, such as all-MiniLM-L6-v2")
    p.add_argument("--model", metavar="MODEL", help="video model for caption regenerate (default: toybox)")
    p.add_argument("--retry-failed", action="store_true", help="retry clips that failed in earlier runs")
    return p
