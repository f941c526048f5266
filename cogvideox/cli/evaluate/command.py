"""`cogvideox evaluate FOLDER|MODEL --suite NAME -o OUT`: generate missing videos, score all, and write a report."""

import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cogvideox.cli.common.arguments import Parser, add_options
from cogvideox.cli.common.messages import print_note
from cogvideox.errors import UserError
from cogvideox.generation.request.input_sources import parse_lora_argument
from cogvideox.generation.request.request import LoadOptions, Request
from cogvideox.options import Option, list_options, parse_value

if TYPE_CHECKING:
    from cogvideox.evaluation.results import EvaluationResults
    from cogvideox.evaluation.run import EvaluationProgress
    from cogvideox.evaluation.suite import Suite
    from cogvideox.evaluation.videos import VideoSet

PROGRESS_INTERVAL = 2.0  # seconds
_EXCLUDED_OPTIONS = {
    "prompt",
    "seed",
    "image",
    "video",
    "strength",
    "extend",
    "invert",
    "fit",
    "image_latent_scale",
    "model",
}


def run(arguments: list[str]) -> None:
    """Evaluate, or run the subcommand `compare` or `export`."""
    if arguments[:1] == ["compare"]:
        from cogvideox.cli.evaluate.compare import run as run_compare

        run_compare(arguments[1:])
        return
    if arguments[:1] == ["export"]:
        from cogvideox.cli.evaluate.export import run as run_export

        run_export(arguments[1:])
        return
    options = parser().parse(arguments)
    if options.source is None or options.output is None:
        raise UserError("missing FOLDER|MODEL or -o/--output; see `cogvideox evaluate --help`")
    if options.workers < 0:
        raise UserError(f"--workers {options.workers} must be 0 or more")

    from cogvideox.cli.common.writable import check_writable
    from cogvideox.evaluation.report.page import write_report
    from cogvideox.evaluation.results import FILE
    from cogvideox.evaluation.run import RESPONSES, evaluate
    from cogvideox.evaluation.suites.registry import build_suite

    check_writable(options.output / FILE, 2**20)
    suite = build_suite(options.suite, _suite_options(options))
    suite, videos = _videos(options, suite)
    if videos.skipped:
        path, reason = videos.skipped[0]
        print_note(f"{len(videos.skipped)} files are not scored, such as {path.name}: {reason}")
    results = evaluate(
        videos,
        suite,
        options.output,
        workers=options.workers,
        backend="ray" if options.ray else "local",
        on_progress=ProgressPrinter(),
    )
    print_scores(results)
    if (options.output / RESPONSES).is_file():
        from cogvideox.evaluation.judge.endpoint import spent

        total = spent(options.output / RESPONSES)
        print(f"calls of endpoints: {total.calls}, cost {total.cost:.4g}, in all runs")
    print(write_report(options.output, results, suite))


def print_scores(results: "EvaluationResults") -> None:
    """Print the protocol, and a line for each score."""
    from cogvideox.evaluation.protocol import format_score
    from cogvideox.evaluation.report.tables import common_protocol

    for name, value in common_protocol(results).items():
        print(f"{name:<20} {value}")
    units = {metric.name: metric.unit for metric in results.metrics}
    for score in results.scores:
        group = score.protocol["group"]
        failures = score.protocol["num_failures"]
        print(
            f"{score.metric + (f' ({group})' if group else ''):<34} {format_score(score, units[score.metric])}"
            + (f", {failures} failed" if failures else "")
        )


class ProgressPrinter:
    """Prints progress to stderr every `PROGRESS_INTERVAL`."""

    def __init__(self) -> None:
        self._next = time.monotonic() + PROGRESS_INTERVAL

    def __call__(self, progress: "EvaluationProgress") -> None:
        """Print a line if the interval has elapsed."""
        if time.monotonic() < self._next:
            return
        from cogvideox.formatting import format_duration

        self._next = time.monotonic() + PROGRESS_INTERVAL
        rates = ", ".join(f"{name} {rate:.2g}/s" for name, rate in progress.rates().items())
        left = "" if progress.seconds_left is None else f", {format_duration(progress.seconds_left)} left"
        failed = f", {progress.failures} failed" if progress.failures else ""
        print(
            f"generated {progress.generated} of {progress.to_generate}, measured {sum(progress.measured.values())} of "
            f"{sum(progress.to_measure.values())} ({rates}){failed}{left}",
            file=sys.stderr,
            flush=True,
        )


def _videos(options: Namespace, suite: "Suite") -> "tuple[Suite, VideoSet]":
    """Return the suite, and the videos of a model or those in a folder."""
    from cogvideox.evaluation.videos import videos_of_folder, videos_of_model
    from cogvideox.pretrained.model_spec import INDEX_FILE, shipped_models

    source, declared = Path(options.source), _generation_options()
    chosen = {
        name: parse_value(option, getattr(options, name))
        for name, option in declared.items()
        if getattr(options, name) is not None
    }
    is_model = options.source in shipped_models() or (source / INDEX_FILE).is_file() or not source.exists()
    if not is_model:
        ignored = ["num_prompts", "videos_per_prompt", "seed", *([] if suite.reads_prompts else ["prompts"])]
        given = [*chosen, *(name for name in ignored if getattr(options, name) is not None)]
        flags = ["--" + name.replace("_", "-") for name in (*given, *(["lora"] if options.lora else []))]
        flags += [f"--set {name}" for name in suite.prompt_settings if name in suite.options.get("settings", {})]
        if flags:
            raise UserError(f"{flags[0]} only applies to models, and {source} is a folder of videos: remove {flags[0]}")
        return suite, videos_of_folder(suite, source)
    if suite.name == "reconstruction":
        given = [*chosen, *(["lora"] if options.lora else []), *(["seed"] if options.seed is not None else [])]
        if given:
            name = given[0].replace("_", "-")
            raise UserError(
                f"--{name} does not apply to the reconstruction suite, which generates no videos: remove it"
            )
        from cogvideox.evaluation.suites.reconstruction import videos_to_reconstruct

        return videos_to_reconstruct(suite, options.source, options.output)
    load_names = {field.name for field in fields(LoadOptions)}
    load = LoadOptions(model=options.source, **{name: chosen.pop(name) for name in list(chosen) if name in load_names})
    loras = tuple(map(parse_lora_argument, options.lora))
    return suite, videos_of_model(suite, chosen, load, options.output, loras)


def _suite_options(options: Namespace) -> Any:
    from cogvideox.evaluation.suite import SuiteOptions

    for name, minimum in (("num_prompts", 1), ("videos_per_prompt", 1), ("seed", 0)):
        value = getattr(options, name)
        if value is not None and value < minimum:
            raise UserError(f"--{name.replace('_', '-')} {value} must be {minimum} or more")
    names = ("num_prompts", "videos_per_prompt", "seed", "prompts")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    return SuiteOptions(**given, settings=_settings(options.set))


def _settings(arguments: Sequence[str]) -> dict[str, str]:
    """Parse the values of `--set NAME=VALUE`."""
    settings = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals:
            raise UserError(f"--set {argument} must be NAME=VALUE, for example --set groups=core")
        settings[name] = value
    return settings


def _generation_options() -> dict[str, Option]:
    declared = {**list_options(Request), **list_options(LoadOptions)}
    return {name: option for name, option in declared.items() if name not in _EXCLUDED_OPTIONS}


def parser() -> Parser:
    """Return the argument parser."""
    p = Parser(
        "evaluate",
        "FOLDER|MODEL --suite NAME -o OUT",
        "Score a model or a folder of videos. Videos that a model has not generated yet are generated first. OUT then "
        "has report.html, report.md, scores.csv and results.json; an interrupted run continues. "
        "`evaluate compare A B` compares two OUT folders, and `evaluate export OUT` exports in the "
        "official tools' layouts; each has its own --help.",
    )
    p.add_argument("source", nargs="?", metavar="FOLDER|MODEL", help="videos with prompts, or a model")
    p.add_argument("--suite", default="toybox", metavar="NAME", help="the suite (default: toybox)")
    p.add_argument("-o", "--output", type=Path, metavar="OUT", help="folder to write to")
    p.add_argument("--num-prompts", type=int, metavar="N", help="prompts per group (default: the suite's)")
    p.add_argument("--videos-per-prompt", type=int, metavar="N", help="videos per prompt (default: the suite's)")
    p.add_argument("--seed", type=int, metavar="N", help="seed of the first video (default: 100)")
    lora = "a LoRA for the model: a file or a trainer's output folder; may be repeated"
    p.add_argument("--lora", action="append", default=[], metavar="FILE[:STRENGTH]", help=lora)
    p.add_argument("--prompts", type=Path, metavar="FILE", help="the suite's official prompt file")
    settings = "setting of the suite's scorers, such as a path of weights; may be repeated"
    p.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help=settings)
    machine = p.add_argument_group("machine")
    workers = "worker processes (default: 0, no extra process)"
    machine.add_argument("--workers", type=int, default=0, metavar="N", help=workers)
    machine.add_argument("--ray", action="store_true", help="run on a Ray cluster with a shared file system")
    add_options(p, _generation_options(), common_only=False)
    return p
