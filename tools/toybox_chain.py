"""Train the next shipped model from scratch by the paper's chain of stages, and score it.

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

from cogvideox.cli.train import UNFINISHED, parse_overrides, train
from cogvideox.errors import UserError
from cogvideox.training.metrics.tracker import format_duration
from cogvideox.training.toybox.base_model import write_base_model
from cogvideox.training.toybox.recipes import PROMPTS, SCHEDULE, toybox_transformer

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Stage:
    """A recipe, the setting that names the folder it continues from, that folder, and its work.

    Attributes:
        tera: floating-point operations in units of 10^12, without those of the encoding of clips.
    """

    recipe: str
    tera: float
    setting: str | None = None
    start: str | None = None


STAGES = (
    Stage("toybox-vae-1", 280.0),
    Stage("toybox-vae-2", 330.0, "start", "toybox-vae-1"),
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
        "--set", nargs="*", default=[], metavar="RECIPE:KEY=VALUE", help="changes of the settings of a recipe"
    )
    options = parser.parse_args(arguments)
    start, out = time.monotonic(), options.out

    def left() -> float | None:
        """Seconds until the time limit; None without one."""
        limit = options.seconds_per_piece
        return None if limit is None else max(0.0, limit - (time.monotonic() - start))

    precision, speed = fastest_precision()
    open_stages = [stage for stage in STAGES if not is_complete(out / stage.recipe)]
    duration = format_duration(sum(stage.tera for stage in open_stages) * 1e12 / speed)
    print(
        f"{len(open_stages)} stages in {precision}, about {duration} if nothing else runs on this machine", flush=True
    )
    try:
        for stage in open_stages:
            if stage.start == "toybox-base/model":
                write_base(out)
            changes = [text.partition(":")[2] for text in options.set if text.startswith(f"{stage.recipe}:")]
            if stage.setting is not None:
                changes.append(f"{stage.setting}={out / (stage.start or '')}")
            print(f"{stage.recipe}, in {out / stage.recipe}", flush=True)
            overrides = {"run.precision": precision} | parse_overrides(changes)
            if not train(stage.recipe, overrides, out=out / stage.recipe, resume=True, max_seconds=left()):
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
    """Whether a run has been trained to its last step."""
    return (run / "complete").is_file()


def write_base(out: Path) -> None:
    """Write the model folder in which the transformer's stages start, unless it exists."""
    if not (out / "toybox-base/model").is_dir():
        write_base_model(
            out / "toybox-base/model",
            vae=out / "toybox-vae-2",
            text_encoder=out / "toybox-text-encoder",
            transformer=toybox_transformer(),
            schedule=SCHEDULE,
            examples=PROMPTS[:3],
        )


def fastest_precision() -> tuple[str, float]:
    """Measure training in float32 and bfloat16 on this machine.

    Returns:
        The faster precision, and its speed in FLOP/s with a small VAE's convolutions and a transformer's matrices.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    layers = nn.Sequential(nn.Linear(256, 1024), nn.GELU(), nn.Linear(1024, 256)).to(device)
    tokens = torch.randn(880, 256, device=device)
    speeds = {}
    for name in ("float32", "bfloat16"):
        times = []
        for _ in range(8):
            began = time.perf_counter()
            with torch.autocast(device, torch.bfloat16, enabled=name == "bfloat16"):
                layers(tokens).float().sum().backward()
            if device == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
        # Half of the speed of these layers alone is what whole steps reach.
        speeds[name] = 0.5 * 6.0 * 880 * 2 * 256 * 1024 / min(times)
    best = max(speeds, key=speeds.__getitem__)
    return best, speeds[best]


if __name__ == "__main__":
    sys.exit(main())
