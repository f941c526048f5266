"""Train the next shipped model from scratch in the stages of the paper, and score it.

    python tools/toybox_chain.py --out runs [--seconds-per-piece 500]

The stages: the VAE on crops and short clips, then on longer ones; the text encoder; the transformer at a low
resolution, at a high one, and with a low learning rate. After an interruption (Ctrl-C, SIGTERM, the time limit, a
crash) the same command resumes from the last checkpoint. Exit status 75 means that it stopped and saved.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from cogvideox.atomic_io import write_text
from cogvideox.cli.train import UNFINISHED, parse_overrides, resolve_settings, train
from cogvideox.errors import UserError
from cogvideox.pretrained.model_spec import read_spec
from cogvideox.training.metrics.tracker import format_duration
from cogvideox.training.toybox.base_model import PROVENANCE, write_base_model
from cogvideox.training.toybox.recipes import PROMPTS, SCHEDULE, toybox_transformer
from cogvideox.untrusted.files import read_text

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Stage:
    """A recipe and the model that it continues from.

    Attributes:
        tera: floating-point operations of the training steps, in units of 10^12.
        setting: name of the setting for the folder of the model to continue from; None: trains from scratch.
        base: that folder, relative to the folder of the runs.
    """

    recipe: str
    tera: float
    setting: str | None = None
    base: str = ""


STAGES = (
    Stage("toybox-vae-1", 280.0),
    Stage("toybox-vae-2", 330.0, "init_from", "toybox-vae-1"),
    Stage("toybox-text-encoder", 120.0),
    Stage("toybox-pretrain-low", 1_200.0, "model", "toybox-base/model"),
    Stage("toybox-pretrain-high", 1_300.0, "model", "toybox-pretrain-low/model"),
    Stage("toybox-pretrain-final", 330.0, "model", "toybox-pretrain-high/model"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder of the runs, one folder per recipe")
    parser.add_argument("--seconds-per-piece", type=float, metavar="S", help="save and stop before this time limit")
    parser.add_argument("--num-prompts", type=int, default=120, metavar="N", help="number of prompts to judge; 0: none")
    parser.add_argument(
        "--set",
        nargs="*",
        action="extend",
        default=[],
        metavar="RECIPE:KEY=VALUE",
        help="changes of the settings of a recipe",
    )
    options = parser.parse_args(arguments)
    start, out = time.monotonic(), options.out

    def remaining_seconds() -> float | None:
        """Return the seconds until the time limit, or None without one."""
        limit = options.seconds_per_piece
        return None if limit is None else max(0.0, limit - (time.monotonic() - start))

    open_stages = [stage for stage in STAGES if not is_complete(out / stage.recipe)]
    try:
        changes = parse_changes(options.set)
        precision, speed = choose_precision(out)
        duration = format_duration(sum(stage.tera for stage in open_stages) * 1e12 / speed)
        print(
            f"{len(open_stages)} stages in {precision}, about {duration} if nothing else runs on this machine",
            flush=True,
        )
        for stage in open_stages:
            if stage.base == "toybox-base/model":
                write_base(out)
            overrides = {"run.precision": precision} | changes[stage.recipe]
            if stage.setting is not None:
                overrides[stage.setting] = str(out / stage.base)
            print(f"{stage.recipe}, in {out / stage.recipe}", flush=True)
            if not train(stage.recipe, overrides, out=out / stage.recipe, resume=True, max_seconds=remaining_seconds()):
                print("stopped and saved: run the same command again to continue", file=sys.stderr)
                return UNFINISHED
            (out / stage.recipe / "complete").touch()
    except UserError as error:
        print(f"toybox-chain: {error}", file=sys.stderr)
        return 2
    model = out / STAGES[-1].recipe / "model"
    if options.num_prompts:
        for name in (str(model), "toybox"):
            print(f"{name}:", flush=True)
            page = out / "scores" / Path(name).name
            example = [sys.executable, str(ROOT / "examples/toybox_page.py"), "--model", name, "--out", str(page)]
            subprocess.run([*example, "--num-prompts", str(options.num_prompts), "--seed", "100"], check=True)
    print(f"The model is in {model}.")
    return 0


def is_complete(run: Path) -> bool:
    """Return whether a run has been trained to its last step."""
    return (run / "complete").is_file()


def write_base(out: Path) -> None:
    """Write the model folder in which the transformer's stages start, unless it exists.

    Raises:
        UserError: the folder was written by another version.
    """
    folder = out / "toybox-base/model"
    if not folder.is_dir():
        write_base_model(
            folder,
            vae=out / "toybox-vae-2",
            text_encoder=out / "toybox-text-encoder",
            transformer=toybox_transformer(),
            schedule=SCHEDULE,
            examples=PROMPTS[:3],
        )
    spec = read_spec(folder)
    if spec.transformer != toybox_transformer() or spec.settings.provenance != PROVENANCE:
        raise UserError(
            f"{folder} was written by another version: remove it and {out}/toybox-pretrain-* to train the "
            "transformer again; the VAE and the text encoder are kept"
        )


def parse_changes(texts: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the changed settings of each recipe, by dotted name.

    Raises:
        UserError: a text is not RECIPE:KEY=VALUE, or the recipe, the setting or the value is invalid.
    """
    by_recipe: dict[str, list[str]] = {stage.recipe: [] for stage in STAGES}
    for text in texts:
        recipe, colon, change = text.partition(":")
        if not colon or recipe not in by_recipe:
            raise UserError(f"--set {text} must be RECIPE:KEY=VALUE with one of the recipes {', '.join(by_recipe)}")
        by_recipe[recipe].append(change)
    changes = {recipe: parse_overrides(texts) for recipe, texts in by_recipe.items()}
    for stage in STAGES:
        if stage.setting in changes[stage.recipe]:
            raise UserError(f"--set {stage.recipe}:{stage.setting} is not allowed: the chain sets it")
        resolve_settings(stage.recipe, changes[stage.recipe])
    return changes


def choose_precision(out: Path) -> tuple[str, float]:
    """Choose the faster precision, or the one that was chosen before for `out`, and record it there.

    Returns:
        The precision, and its speed in FLOP/s.

    Raises:
        UserError: the record is damaged, or cannot be read or written.
    """
    file, speeds = out / "precision", measure_speeds()
    if not file.exists():
        write_text(file, max(speeds, key=speeds.__getitem__))
    precision = read_text(file).strip()
    if precision not in speeds:
        raise UserError(f"{file} must contain one of {', '.join(speeds)}: correct or remove it")
    return precision, speeds[precision]


def measure_speeds() -> dict[str, float]:
    """Measure training steps of two layers on this machine, in FLOP/s by precision: float32 and bfloat16."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    layers = nn.Sequential(nn.Linear(256, 1024), nn.GELU(), nn.Linear(1024, 256)).to(device)
    tokens = torch.randn(880, 256, device=device)
    speeds = {}
    for name in ("float32", "bfloat16"):
        times = []
        for _ in range(8):
            start = time.perf_counter()
            with torch.autocast(device, torch.bfloat16, enabled=name == "bfloat16"):
                layers(tokens).float().sum().backward()
            if device == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        # Whole training steps reach half of the speed of these layers.
        speeds[name] = 0.5 * 6.0 * 880 * 2 * 256 * 1024 / min(times)
    return speeds


if __name__ == "__main__":
    sys.exit(main())
