"""Makes the shipped model again from nothing: its VAE, then its transformer, then its scores.

    python tools/toybox_model.py --out runs/toybox-model [--seconds-per-piece 500]

Where there is a GPU, the recipes for one are taken. Whatever interrupts it (Ctrl-C, SIGTERM, the end of a piece, a
crash), the same command goes on from the last checkpoint. Exit status 75 means stopped and saved.
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

from cogvideox.cli.train import UNFINISHED, split, train
from cogvideox.errors import UserError

ROOT = Path(__file__).parent.parent
SHIPPED = ROOT / "cogvideox/models/toybox"
SCORING = 0.5  # the share of a piece that scoring one model may take


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--out", type=Path, default=Path("runs/toybox-model"), help="where everything goes")
    parser.add_argument("--seconds-per-piece", type=float, metavar="S", help="save and stop before this time is over")
    parser.add_argument("--num-prompts", type=int, default=120, metavar="N", help="how many prompts are judged")
    parser.add_argument("--vae", nargs="*", default=[], metavar="KEY=VALUE", help="other settings for the VAE")
    parser.add_argument("--transformer", nargs="*", default=[], metavar="KEY=VALUE", help="and for the transformer")
    options = parser.parse_args(arguments)
    if options.num_prompts < 1:
        parser.error(f"--num-prompts {options.num_prompts} is below the smallest legal value, 1")
    began = time.monotonic()

    def left() -> float | None:
        """Seconds of this piece; none of them means that there is no limit."""
        limit = options.seconds_per_piece
        return None if limit is None else max(0.0, limit - (time.monotonic() - began))

    twin = "-gpu" if torch.cuda.is_available() else ""
    vae, run = options.out / "vae", options.out / "transformer"
    stages = [("toybox-vae" + twin, vae, options.vae), ("toybox" + twin, run, [f"vae={vae}", *options.transformer])]
    for recipe, out, changes in stages:
        print(f"{recipe}, in {out}", flush=True)
        try:
            done = train(recipe, split(changes), out=out, resume=True, max_seconds=left())
        except UserError as error:
            print(f"toybox-model: {error}", file=sys.stderr)
            return 2
        if not done:
            return again("stopped and saved")

    model, pages = run / "model", options.out / "scores"
    for folder, page in ((model, pages / "new"), (SHIPPED, pages / "shipped")):
        if is_scored(folder, page, options.num_prompts):
            continue
        seconds = left()
        if seconds is not None and seconds < SCORING * options.seconds_per_piece:
            return again("trained, and no time left for the scores")
        try:
            score(folder, page, options.num_prompts)
        except KeyboardInterrupt:
            return again("trained, and not scored")
    ours, shipped = scores(pages / "new"), scores(pages / "shipped")
    print(f"\n{'right':<12}{'new':>8}{'shipped':>10}")
    for fact in ours:
        print(f"{fact:<12}{ours[fact]:8.1%}{shipped[fact]:10.1%}")
    print(f"\nThe model is {model}, and the videos that were judged are in {pages}.")
    return 0


def what(model: Path, num_prompts: int) -> str:
    """What a page is the page of: a hash of all files of a model, and how many prompts."""
    files = sorted(path for path in model.rglob("*") if path.is_file())
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    return f"{digest[:16]}, {num_prompts} prompts\n"


def is_scored(model: Path, page: Path, num_prompts: int) -> bool:
    """Whether that was done in a piece before this one."""
    return (page / "of.txt").is_file() and (page / "of.txt").read_text() == what(model, num_prompts)


def score(model: Path, page: Path, num_prompts: int) -> None:
    """Has a model's videos judged, on prompts of compositions that no training saw."""
    example = [sys.executable, str(ROOT / "examples/toybox_page.py"), "--model", str(model), "--out", str(page)]
    subprocess.run(
        [*example, "--num-prompts", str(num_prompts), "--seed", "100"], check=True, stdout=subprocess.DEVNULL
    )
    (page / "of.txt").write_text(what(model, num_prompts))


def scores(page: Path) -> dict[str, float]:
    """The share of right answers per fact."""
    report = json.loads((page / "page.json").read_text())
    return {fact: score["value"] for fact, score in report["scores"].items()}


def again(why: str) -> int:
    print(f"{why}: run it again to go on", file=sys.stderr)
    return UNFINISHED


if __name__ == "__main__":
    sys.exit(main())
