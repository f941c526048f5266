"""Progressive training on the toybox: low resolution, high resolution, high-quality data; each stage is judged.

    python examples/stage_chain.py --out runs/stage-chain

First, a folder of clips is rendered. Four in five have an overlay (a logo in a corner or a bar of text), and all have a
`quality` score that is usually higher without overlay. `toybox-pretrain-256` trains on them from scratch or from the
model of `--start`, `toybox-pretrain-480` continues at a higher resolution, and `toybox-quality` continues with the
fifth of the clips with the highest scores. As a control, the last stage is repeated with all clips. Then videos of
every stage are judged: whether the facts are correct, and whether they have an overlay. Existing clips and runs in the
folder are reused. `--vae` replaces the model's VAE with the VAE of a run, such as those of `vae_training.py`.

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
from cogvideox.filter_policy.policy import Policy
from cogvideox.pretrained import model_folder
from cogvideox.pretrained.components import load_vae
from cogvideox.toybox.captions.caption import caption_scene, sample_prompts
from cogvideox.toybox.captions.core import STYLES
from cogvideox.toybox.judge.judge import fact_accuracies, judge_clips
from cogvideox.toybox.render.renderer import render_scene
from cogvideox.toybox.scenes.sampler import sample_scene
from cogvideox.training.diffusion import trainer
from cogvideox.training.diffusion.config import DiffusionTraining, SampleSettings
from cogvideox.training.diffusion.recipes import RECIPES
from cogvideox.video.sheet import ends_and_middle, side_by_side
from cogvideox.video.transform import to_frames, to_model


@dataclass(frozen=True)
class ChainStage:
    """A stage: its recipe, the stage it continues from, and the height and width of its samples."""

    recipe: str
    previous: str | None
    side: int
    all_clips: bool = False


CHAIN = {
    "toybox-pretrain-256": ChainStage("toybox-pretrain-256", None, 48),
    "toybox-pretrain-480": ChainStage("toybox-pretrain-480", "toybox-pretrain-256", 64),
    "toybox-quality": ChainStage("toybox-quality", "toybox-pretrain-480", 64),
    "control": ChainStage("toybox-quality", "toybox-pretrain-480", 64, all_clips=True),
}
OVERLAYS = ("logo", "bar")
NUM_FRAMES, NUM_HELD_OUT, NUM_SHEET_VIDEOS = 9, 48, 6


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
    write_clips(clips, options.num_clips, overlay_probability=0.8, seed=0)
    write_clips(held_out, NUM_HELD_OUT, overlay_probability=0.0, seed=1)
    scores, sheet_videos = {"data": score_overlay_detector(start or "toybox")}, []
    num_steps = (*options.num_steps, options.num_steps[-1])
    for (name, stage), steps in zip(CHAIN.items(), num_steps, strict=True):
        run = options.out / name
        model = start if stage.previous is None else str(options.out / stage.previous / "model")
        if not (run / "model").is_dir():
            trainer.train(make_settings(stage, steps, model, clips, held_out), run, resume=True)
        videos, scores[name] = judge_model(str(run / "model"), options.num_prompts, stage.side)
        sheet_videos.append(np.stack([resize(video, 64) for video in videos[:NUM_SHEET_VIDEOS]]))
        (options.out / "scores.json").write_text(json.dumps(scores, indent=2) + "\n")
        print(name, *(f"{fact} {score['value']:.0%}" for fact, score in scores[name].items()), flush=True)
    rows = rearrange(np.stack(sheet_videos)[:, :, ends_and_middle(NUM_FRAMES)], "s k t h w c -> s (k t) h w c")
    Video(side_by_side(rows, columns=1, labels=list(CHAIN))[None], fps=1.0).save(options.out / "sheet.png")


def with_vae(model: str, vae: Path, out: Path) -> str:
    """Save a model with the VAE of a run. Return its folder."""
    return str(model_folder.save(replace(model_folder.load(model), vae=load_vae(vae)), out))


def make_settings(
    stage: ChainStage, num_steps: int, model: str | None, clips: Path, held_out: Path
) -> DiffusionTraining:
    """Return the recipe of a stage with fewer steps, and intervals and warm-up scaled accordingly."""
    changes = {
        "run.num_steps": num_steps, "run.save_interval": max(1, num_steps // 4), "run.log_interval": 10,
        "run.validate_interval": max(1, num_steps // 6), "optim.warmup_steps": min(50, num_steps // 5),
        "run.ema_decay": 0.97,
    }  # fmt: skip
    if model is not None and stage.previous is None:
        changes["optim.lr"] = 1e-3  # lower than in the recipe, because the model is already trained
    settings = config.override(RECIPES[stage.recipe](), {key: str(value) for key, value in changes.items()})
    if model is not None:
        settings = replace(settings, model=model, transformer=None)
    if stage.all_clips:
        settings = replace(settings, policy=Policy())
    return replace(settings, data=(DataSource(str(clips)),), validation=str(held_out), samples=SampleSettings())


def write_clips(path: Path, num_clips: int, *, overlay_probability: float, seed: int) -> None:
    """Write videos and images, with captions and scores in `metadata.jsonl`."""
    if (path / "metadata.jsonl").exists():
        return
    path.mkdir(parents=True, exist_ok=True)
    rng, lines = np.random.default_rng(seed), []
    for i in range(num_clips):
        is_image, with_overlay = rng.random() < 0.15, rng.random() < overlay_probability
        scene = sample_scene(rng, split="training")
        height = 48 if rng.random() < 0.2 else 64
        frames = render_scene(scene, num_frames=1 if is_image else NUM_FRAMES, height=height, width=64).numpy()
        if with_overlay:
            draw_overlay(frames, OVERLAYS[rng.integers(2)])
        name = f"{i:05d}.png" if is_image else f"{i:05d}.mp4"
        Video(frames, fps=8.0).save(path / name)
        text = caption_scene(scene, STYLES[rng.integers(len(STYLES))], rng, image=is_image)
        quality = rng.normal(0.0 if with_overlay else 1.0, 0.3)
        lines.append(json.dumps({"file_name": name, "text": text, "quality": round(quality, 3)}))
    (path / "metadata.jsonl").write_text("\n".join(lines) + "\n")


def overlay_pixels(kind: str, height: int, width: int) -> tuple[tuple[slice, slice], np.ndarray]:
    """Return the position of an overlay (rows, columns) and its pixels, 0 or 255."""
    if kind == "logo":  # a white cross on a black square in the upper right corner
        size = height // 4
        position = (slice(0, size), slice(width - size, width))
        y, x = np.mgrid[0:size, 0:size] / size
        white = (abs(y - 0.5) < 0.17) | (abs(x - 0.5) < 0.17)
    else:  # a black bar along the lower edge with two white blocks as words
        size = height // 4
        position = (slice(height - size, height), slice(0, width))
        y, x = np.mgrid[0:size, 0:width]
        white = (abs(y / size - 0.5) < 0.3) & (x * 4 // width % 2 == 1)
    return position, np.where(white, 255, 0).astype(np.uint8)


def draw_overlay(frames: np.ndarray, kind: str) -> None:
    """Draw an overlay on all frames."""
    (rows, columns), overlay = overlay_pixels(kind, *frames.shape[1:3])
    frames[:, rows, columns] = overlay[..., None]


def has_overlay(frames: np.ndarray) -> bool:
    """Return whether the gray, time-averaged pixels at the position of an overlay correlate with it (r > 0.5)."""
    for kind in OVERLAYS:
        (rows, columns), overlay = overlay_pixels(kind, *frames.shape[1:3])
        pixels = frames[:, rows, columns].mean((0, 3))
        if pixels.std() > 8 and np.corrcoef(pixels.ravel(), overlay.ravel())[0, 1] > 0.5:
            return True
    return False


@torch.no_grad()
def score_overlay_detector(model: str, num_clips: int = 60) -> dict[str, float]:
    """Return how often an overlay is detected in clips with and without one, reconstructed with a model's VAE."""
    vae, rng = model_folder.load(model).vae, np.random.default_rng(2)
    detected: dict[str, list[bool]] = {"clean": [], "spoiled": []}
    for i in range(num_clips):
        frames = render_scene(sample_scene(rng, split="training"), num_frames=NUM_FRAMES, height=64, width=64).numpy()
        if i % 2:
            draw_overlay(frames, OVERLAYS[i // 2 % 2])
        pixels = to_model(torch.from_numpy(frames))[None]
        reconstruction = to_frames(vae.decode(vae.encode(pixels).mean))[0]
        detected["spoiled" if i % 2 else "clean"].append(has_overlay(reconstruction.numpy()))
    return {f"found in {name}": sum(results) / len(results) for name, results in detected.items()}


def judge_model(model: str, num_prompts: int, side: int) -> tuple[list[np.ndarray], dict]:
    """Generate videos of held-out prompts. Return them, and the fractions of correct facts and of overlays."""
    pipe, prompts = CogVideoX.from_pretrained(model), sample_prompts(num_prompts, 0, split="held_out")
    videos = [
        pipe.generate(prompt, seed=i, num_frames=NUM_FRAMES, height=side, width=side).frames
        for i, (prompt, _) in enumerate(prompts)
    ]
    verdicts = judge_clips(torch.from_numpy(np.stack(videos)), [facts for _, facts in prompts])
    accuracies = {fact: asdict(score) for fact, score in fact_accuracies(verdicts).items()}
    return videos, accuracies | {"overlay": {"value": sum(map(has_overlay, videos)) / num_prompts}}


def resize(frames: np.ndarray, side: int) -> np.ndarray:
    """Resize square frames by nearest-neighbor interpolation."""
    indices = np.arange(side) * frames.shape[1] // side
    return frames[:, indices][:, :, indices]


if __name__ == "__main__":
    main()
