"""Progressive training on the toybox: low resolution, high resolution, high-quality data; each stage is judged.

    python examples/stage_chain.py --out runs/stage-chain

First, a folder of clips is rendered. Four in five have an overlay, a logo in a corner or a bar of text, and all have a
`quality` score that is usually higher without one. `toybox-pretrain-256` trains on them from scratch, or from the model
of `--start`; `toybox-pretrain-480` continues at a higher resolution, and `toybox-quality` with the fifth of the clips
with the best scores; as a control, the same stage runs with all clips. Then videos of every stage are judged: are the
facts right, and is there an overlay? Existing clips and runs in the folder are reused. `--vae` replaces the model's VAE
by that of a run, such as those of `vae_training.py`.

Writes `scores.json`, `sheet.png` (a row of videos per stage) and the runs.
"""

import argparse
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from einops import rearrange

from cogvideox import CogVideoX, Video, config
from cogvideox.dataset.mixture import DataSource
from cogvideox.filter_policy import Policy
from cogvideox.pretrained import model_folder
from cogvideox.pretrained.components import load_vae
from cogvideox.toybox.captions.caption import caption_scene, sample_prompts
from cogvideox.toybox.captions.core import STYLES
from cogvideox.toybox.judge.judge import fact_accuracies, judge_clips
from cogvideox.toybox.render.renderer import render_scene
from cogvideox.toybox.scenes.sampler import sample_scene
from cogvideox.training.diffusion import trainer
from cogvideox.training.diffusion.config import DiffusionTraining, SampleSettings
from cogvideox.training.diffusion.recipes import STAGES
from cogvideox.video.sheet import ends_and_middle, side_by_side
from cogvideox.video.transform import to_frames, to_model


@dataclass(frozen=True)
class Link:
    """One stage: its recipe, the run it continues from, and the height and width of its samples."""

    recipe: str
    after: str | None
    side: int
    all_clips: bool = False


CHAIN = {
    "toybox-pretrain-256": Link("toybox-pretrain-256", None, 48),
    "toybox-pretrain-480": Link("toybox-pretrain-480", "toybox-pretrain-256", 64),
    "toybox-quality": Link("toybox-quality", "toybox-pretrain-480", 64),
    "control": Link("toybox-quality", "toybox-pretrain-480", 64, all_clips=True),
}
OVERLAYS = ("logo", "bar")
FRAMES, HELD_OUT, SHOWN = 9, 48, 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--start", help="a model, such as toybox, from which the first stage starts")
    parser.add_argument("--vae", type=Path, help="folder of a VAE training run, whose VAE replaces that of --start")
    parser.add_argument("--num-clips", type=int, default=1500)
    parser.add_argument(
        "--num-steps",
        type=int,
        nargs=3,
        default=(1200, 300, 150),
        metavar="N",
        help="training steps of each stage; the control has as many as the last one",
    )
    parser.add_argument("--num-prompts", type=int, default=60, help="prompts generated and judged per stage")
    parser.add_argument("--out", type=Path, default=Path("runs/stage-chain"))
    options = parser.parse_args()
    if options.vae and not options.start:
        parser.error("--vae replaces the VAE of a model: pass --start as well")
    start = with_vae(options.start, options.vae, options.out / "start") if options.vae else options.start

    clips, held_out = options.out / "clips", options.out / "held-out"
    write_clips(clips, options.num_clips, with_overlay=0.8, seed=0)
    write_clips(held_out, HELD_OUT, with_overlay=0.0, seed=1)
    scores, shown = {"data": score_overlay_test(start or "toybox")}, []
    num_steps = (*options.num_steps, options.num_steps[-1])
    for (name, link), steps in zip(CHAIN.items(), num_steps, strict=True):
        run = options.out / name
        model = start if link.after is None else str(options.out / link.after / "model")
        if not (run / "model").is_dir():
            trainer.train(stage(link, steps, model, clips, held_out), run, resume=True)
        videos, scores[name] = judge_model(str(run / "model"), options.num_prompts, link.side)
        shown.append(np.stack([resized(video, 64) for video in videos[:SHOWN]]))
        (options.out / "scores.json").write_text(json.dumps(scores, indent=2) + "\n")
        print(name, *(f"{fact} {score['value']:.0%}" for fact, score in scores[name].items()), flush=True)
    rows = rearrange(np.stack(shown)[:, :, ends_and_middle(FRAMES)], "s k t h w c -> s (k t) h w c")
    Video(side_by_side(rows, columns=1, labels=list(CHAIN))[None], fps=1.0).save(options.out / "sheet.png")


def with_vae(model: str, vae: Path, out: Path) -> str:
    """Save a model with the VAE of a run; returns its folder."""
    return str(model_folder.save(replace(model_folder.load(model), vae=load_vae(vae)), out))


def stage(link: Link, num_steps: int, model: str | None, clips: Path, held_out: Path) -> DiffusionTraining:
    """The recipe with fewer steps, and checkpoints, validation and warm-up scaled accordingly."""
    changes = {
        "run.num_steps": num_steps, "run.save_interval": max(1, num_steps // 4), "run.log_interval": 10,
        "run.validate_interval": max(1, num_steps // 6), "optim.warmup_steps": min(50, num_steps // 5),
        "run.ema_decay": 0.97,
    }  # fmt: skip
    if model is not None and link.after is None:
        changes["optim.lr"] = 1e-3  # lower, to keep what the model has learned
    settings = config.override(STAGES[link.recipe](), {key: str(value) for key, value in changes.items()})
    if model is not None:
        settings = replace(settings, model=model, transformer=None)
    if link.all_clips:
        settings = replace(settings, policy=Policy())
    return replace(settings, data=(DataSource(str(clips)),), validation=str(held_out), samples=SampleSettings())


def write_clips(path: Path, number: int, *, with_overlay: float, seed: int) -> None:
    """Write videos and images, with captions and scores in `metadata.jsonl`."""
    if (path / "metadata.jsonl").exists():
        return
    path.mkdir(parents=True, exist_ok=True)
    rng, lines = np.random.default_rng(seed), []
    for i in range(number):
        image, spoiled = rng.random() < 0.15, rng.random() < with_overlay
        scene = sample_scene(rng, split="training")
        height = 48 if rng.random() < 0.2 else 64
        frames = render_scene(scene, num_frames=1 if image else FRAMES, height=height, width=64).numpy()
        if spoiled:
            draw_overlay(frames, OVERLAYS[rng.integers(2)])
        name = f"{i:05d}.png" if image else f"{i:05d}.mp4"
        Video(frames, fps=8.0).save(path / name)
        text = caption_scene(scene, STYLES[rng.integers(len(STYLES))], rng, image=image)
        quality = rng.normal(0.0 if spoiled else 1.0, 0.3)
        lines.append(json.dumps({"file_name": name, "text": text, "quality": round(quality, 3)}))
    (path / "metadata.jsonl").write_text("\n".join(lines) + "\n")


def pattern(kind: str, height: int, width: int) -> tuple[tuple[slice, slice], np.ndarray]:
    """The position of an overlay and its pixels, 0 or 255."""
    if kind == "logo":  # a white cross on a black square in the upper right corner
        size = height // 4
        at = (slice(0, size), slice(width - size, width))
        y, x = np.mgrid[0:size, 0:size] / size
        white = (abs(y - 0.5) < 0.17) | (abs(x - 0.5) < 0.17)
    else:  # a black bar along the lower edge with two white blocks as words
        size = height // 4
        at = (slice(height - size, height), slice(0, width))
        y, x = np.mgrid[0:size, 0:width]
        white = (abs(y / size - 0.5) < 0.3) & (x * 4 // width % 2 == 1)
    return at, np.where(white, 255, 0).astype(np.uint8)


def draw_overlay(frames: np.ndarray, kind: str) -> None:
    """Draw an overlay on all frames."""
    (rows, columns), picture = pattern(kind, *frames.shape[1:3])
    frames[:, rows, columns] = picture[..., None]


def has_overlay(frames: np.ndarray) -> bool:
    """Whether the gray, time-averaged pixels at its position correlate with an overlay (r > 0.5)."""
    for kind in OVERLAYS:
        (rows, columns), picture = pattern(kind, *frames.shape[1:3])
        seen = frames[:, rows, columns].mean((0, 3))
        if seen.std() > 8 and np.corrcoef(seen.ravel(), picture.ravel())[0, 1] > 0.5:
            return True
    return False


@torch.no_grad()
def score_overlay_test(model: str, number: int = 60) -> dict[str, float]:
    """Accuracy of the overlay test on known clips, after encoding and decoding with a model's VAE."""
    vae, rng = model_folder.load(model).vae, np.random.default_rng(2)
    found: dict[str, list[bool]] = {"clean": [], "spoiled": []}
    for i in range(number):
        frames = render_scene(sample_scene(rng, split="training"), num_frames=FRAMES, height=64, width=64).numpy()
        if i % 2:
            draw_overlay(frames, OVERLAYS[i // 2 % 2])
        pixels = to_model(torch.from_numpy(frames))[None]
        again = to_frames(vae.decode(vae.encode(pixels).mean))[0]
        found["spoiled" if i % 2 else "clean"].append(has_overlay(again.numpy()))
    return {f"found in {name}": sum(of) / len(of) for name, of in found.items()}


def judge_model(model: str, number: int, side: int) -> tuple[list[np.ndarray], dict]:
    """Videos of unseen prompts, and the shares of correct facts and of overlays."""
    pipe, drawn = CogVideoX.from_pretrained(model), sample_prompts(number, 0, split="withheld")
    videos = [
        pipe.generate(prompt, seed=i, num_frames=FRAMES, height=side, width=side).frames
        for i, (prompt, _) in enumerate(drawn)
    ]
    verdicts = judge_clips(torch.from_numpy(np.stack(videos)), [facts for _, facts in drawn])
    shares = {fact: asdict(score) for fact, score in fact_accuracies(verdicts).items()}
    return videos, shares | {"overlay": {"value": sum(map(has_overlay, videos)) / number}}


def resized(frames: np.ndarray, side: int) -> np.ndarray:
    """Nearest-neighbor resize, to show sizes side by side."""
    at = np.arange(side) * frames.shape[1] // side
    return frames[:, at][:, :, at]


if __name__ == "__main__":
    main()
