"""`cogvideox curate RAW OUT`: split raw videos into clips, measure them, and write a manifest and a funnel page."""

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cogvideox.cli.common.arguments import Parser
from cogvideox.cli.common.messages import print_note
from cogvideox.errors import UserError
from cogvideox.executor.job_array import Shard
from cogvideox.untrusted.text_encoding import check_utf8_path

if TYPE_CHECKING:
    from cogvideox.curation.work import CurationProgress

PROGRESS_INTERVAL = 2.0  # seconds between progress lines


def run(arguments: list[str]) -> None:
    """Estimate the run, curate, and print a summary."""
    options = parser().parse(arguments)
    if options.raw is None or options.output is None:
        raise UserError("curate needs RAW (a folder of videos and images) and OUT (the folder to write to)")
    if options.workers < 0:
        raise UserError(f"--workers {options.workers} must be 0 or more")
    check_utf8_path(options.output)
    shard = Shard() if options.shard is None else Shard.parse(options.shard)

    from cogvideox import config
    from cogvideox.cli.common.writable import check_writable
    from cogvideox.curation.manifest import MANIFEST
    from cogvideox.curation.recipe import Recipe
    from cogvideox.curation.run import choose_signals, curate, estimate
    from cogvideox.formatting import format_bytes, format_duration

    recipe = Recipe() if options.recipe is None else config.load(Recipe, options.recipe)
    settings = _settings(options.settings)
    if recipe.signals is None and any(name.startswith("signals.") for name in settings):
        recipe = replace(recipe, signals={name: {} for name in choose_signals(recipe)[0]})
    recipe = config.override(recipe, settings)
    check_writable(options.output / MANIFEST, 2**20)
    start = time.perf_counter()
    expected = estimate(options.raw, options.output, recipe, options.workers)
    for name, needs in expected.unavailable.items():
        print_note(f"signal {name} is skipped: {', '.join(needs)}")
    print(
        f"{expected.num_files} files, {format_bytes(expected.num_bytes)}, about "
        f"{format_duration(expected.video_seconds)} of video; estimated time without cached results: "
        f"{format_duration(expected.seconds)}",
        file=sys.stderr,
    )
    result = curate(
        options.raw,
        options.output,
        recipe,
        stage=options.stage,
        workers=options.workers,
        backend="ray" if options.ray else "local",
        shard=shard,
        retry_failed=options.retry_failed,
        on_progress=ProgressPrinter(),
    )
    if result.ignored:
        print(f"{len(result.ignored)} files were ignored: unsupported suffix or broken link")
    rates = result.progress.rates()
    if rates:
        rows = "\n".join(
            f"  {name:<12} {result.progress.rows[name]:>8} rows {rate:>10.1f} per second per process"
            for name, rate in sorted(rates.items())
        )
        print(f"computed by this run:\n{rows}")
    else:
        print("nothing to compute: all results are cached")
    if not result.complete:
        print(f"this is shard {options.shard}; the last shard to finish writes the manifest")
        return

    from cogvideox.cli.curation.funnel import print_funnel, write_page

    print_funnel(options.output)
    page = write_page(options.output, options.raw)
    print(f"wrote {options.output / MANIFEST} and {page} in {time.perf_counter() - start:.1f} s")


class ProgressPrinter:
    """Prints progress to stderr at intervals."""

    def __init__(self) -> None:
        self._next = time.monotonic() + PROGRESS_INTERVAL

    def __call__(self, progress: "CurationProgress") -> None:
        """Print a line if the interval has passed."""
        if time.monotonic() < self._next:
            return
        from cogvideox.formatting import format_duration

        self._next = time.monotonic() + PROGRESS_INTERVAL
        slowest = sorted(progress.rates().items(), key=lambda item: item[1])[:4]
        left = "" if progress.seconds_left is None else f", {format_duration(progress.seconds_left)} left"
        print(
            f"files: {progress.files} of {progress.num_files}, clips: {progress.clips} "
            f"({progress.clips / max(progress.elapsed, 1e-9):.2f}/s; "
            f"{', '.join(f'{name} {rate:.1f}/s' for name, rate in slowest)}){left}",
            file=sys.stderr,
            flush=True,
        )


def _settings(texts: list[str]) -> dict[str, str]:
    """Parse `name=value` arguments."""
    settings = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"{text!r} is not a setting: write name=value, such as split.min_seconds=2")
        settings[name] = value
    return settings


def parser() -> Parser:
    """Return the argument parser."""
    p = Parser(
        "curate",
        "RAW OUT [NAME=VALUE ...]",
        "Split the videos in RAW into clips of one shot, measure them, and find duplicates. OUT then contains "
        "manifest.parquet (all clips and files, with reasons for what failed or was dropped), metadata.parquet (usable "
        "clips; `encode OUT` and `train` read it), recipe.yaml and funnel.html. Results in OUT are reused.",
    )
    p.add_argument("raw", nargs="?", type=Path, metavar="RAW", help="folder of videos and images, at any depth")
    p.add_argument("output", nargs="?", type=Path, metavar="OUT", help="folder to write to")
    p.add_argument("settings", nargs="*", metavar="NAME=VALUE", help="settings of the recipe: split.min_seconds=2")
    p.add_argument("--recipe", type=Path, metavar="FILE", help="settings as YAML or JSON, such as OUT/recipe.yaml")
    stage = "run only this stage or signal, after probe and split: probe, split, cut, motion, ..."
    p.add_argument("--stage", metavar="NAME", help=stage)
    p.add_argument("--retry-failed", action="store_true", help="retry rows that failed in earlier runs")
    machine = p.add_argument_group("machine")
    workers = "maximum number of worker processes; fewer if memory is limited (default: 0, run in this process)"
    machine.add_argument("--workers", type=int, default=0, metavar="N", help=workers)
    shard = "process shard K of N (0-based) of the files; the last job to finish writes the manifest"
    machine.add_argument("--shard", metavar="K/N", help=shard)
    machine.add_argument("--ray", action="store_true", help="run on a Ray cluster with a shared disk, with Ray Data")
    return p
