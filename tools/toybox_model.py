"""Reproduce the shipped model from scratch: train its VAE and its transformer, and score it.

    python tools/toybox_model.py --out runs/toybox-model [--seconds-per-piece 500]

With a GPU, the recipes for GPUs are used. After an interruption (Ctrl-C, SIGTERM, the time limit, a crash) the same
command resumes from the last checkpoint. Exit status 75 means that it stopped and saved.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from cogvideox.cli.train import UNFINISHED, parse_overrides, train
from cogvideox.errors import UserError

ROOT = Path(__file__).parent.parent
SHIPPED = ROOT / "cogvideox/models/toybox"
SCORING = 0.5  # fraction of the time limit needed to score a model


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--out", type=Path, default=Path("runs/toybox-model"), help="output folder")
    parser.add_argument("--seconds-per-piece", type=float, metavar="S", help="save and stop before this time limit")
    parser.add_argument("--num-prompts", type=int, default=120, metavar="N", help="number of prompts to judge")
    parser.add_argument("--vae", nargs="*", default=[], metavar="KEY=VALUE", help="changes of the VAE training config")
    parser.add_argument(
        "--transformer", nargs="*", default=[], metavar="KEY=VALUE", help="changes of the transformer training config"
    )
    options = parser.parse_args(arguments)
    if options.num_prompts < 1:
        parser.error(f"--num-prompts {options.num_prompts} must be at least 1")
    start = time.monotonic()

    def remaining_seconds() -> float | None:
        """Return the seconds until the time limit, or None without one."""
        limit = options.seconds_per_piece
        return None if limit is None else max(0.0, limit - (time.monotonic() - start))

    suffix = "-gpu" if torch.cuda.is_available() else ""
    vae, run = options.out / "vae", options.out / "transformer"
    stages = [("toybox-vae" + suffix, vae, options.vae), ("toybox" + suffix, run, [f"vae={vae}", *options.transformer])]
    for recipe, out, changes in stages:
        print(f"{recipe}, in {out}", flush=True)
        try:
            done = train(recipe, parse_overrides(changes), out=out, resume=True, max_seconds=remaining_seconds())
        except UserError as error:
            print(f"toybox-model: {error}", file=sys.stderr)
            return 2
        if not done:
            return stop("stopped and saved")

    model, pages = run / "model", options.out / "scores"
    for folder, page in ((model, pages / "new"), (SHIPPED, pages / "shipped")):
        if is_scored(folder, page, options.num_prompts):
            continue
        seconds = remaining_seconds()
        if seconds is not None and seconds < SCORING * options.seconds_per_piece:
            return stop("trained, but no time left to score")
        try:
            score(folder, page, options.num_prompts)
        except KeyboardInterrupt:
            return stop("trained, but not scored")
    new, shipped = scores(pages / "new"), scores(pages / "shipped")
    print(f"\n{'correct':<12}{'new':>8}{'shipped':>10}")
    for fact in new:
        print(f"{fact:<12}{new[fact]:8.1%}{shipped[fact]:10.1%}")
    print(f"\nThe model is in {model}, the judged videos are in {pages}.")
    return 0


def page_key(model: Path, num_prompts: int) -> str:
    """Return the key of a page: a hash of all files of a model, and the number of prompts."""
    files = sorted(path for path in model.rglob("*") if path.is_file())
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    return f"{digest[:16]}, {num_prompts} prompts\n"


def is_scored(model: Path, page: Path, num_prompts: int) -> bool:
    """Return whether the page of this model and number of prompts exists."""
    return (page / "of.txt").is_file() and (page / "of.txt").read_text() == page_key(model, num_prompts)


def score(model: Path, page: Path, num_prompts: int) -> None:
    """Generate and judge a model's videos on held-out prompts."""
    example = [sys.executable, str(ROOT / "examples/toybox_page.py"), "--model", str(model), "--out", str(page)]
    subprocess.run(
        [*example, "--num-prompts", str(num_prompts), "--seed", "100"], check=True, stdout=subprocess.DEVNULL
    )
    (page / "of.txt").write_text(page_key(model, num_prompts))


def scores(page: Path) -> dict[str, float]:
    """Return the fraction of correct videos for each fact."""
    report = json.loads((page / "page.json").read_text())
    return {fact: score["value"] for fact, score in report["scores"].items()}


def stop(reason: str) -> int:
    print(f"{reason}: run the same command again to continue", file=sys.stderr)
    return UNFINISHED


if __name__ == "__main__":
    sys.exit(main())
