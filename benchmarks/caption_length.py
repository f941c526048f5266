"""Training on long captions beside training on short captions: facts of the prompt that images show.

python benchmarks/caption_length.py --vae MODEL --out build/caption-length.json

Small text-to-image models are trained from scratch on the same rendered images, with equal steps and seeds, once with
short captions and once with captions that name all facts. Prompts name all facts of scenes that training does not
contain. Runs are kept in --work and resume; with --seconds, the script stops after that time.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import cpu_name, write_json

from cogvideox.generation.pipeline import CogVideoX
from cogvideox.records import Video
from cogvideox.toybox.captions.caption import caption_scene
from cogvideox.toybox.judge.judge import judge_clip
from cogvideox.toybox.scenes.sampler import sample_scene
from cogvideox.training.config import HELD_OUT_SEED, ToyboxTraining
from cogvideox.training.recipes import RECIPES
from cogvideox.training.toybox.trainer import train

STYLES = {"short": ("short",), "long": ("plain", "dense")}


def settings(vae: str, style: str, seed: int, num_steps: int, batch_size: int) -> ToyboxTraining:
    """Return the config of a run."""
    base = RECIPES["toybox"]()
    assert isinstance(base, ToyboxTraining)
    return replace(
        base,
        vae=vae,
        transformer=replace(base.transformer, num_layers=4),
        clips=replace(base.clips, num_frames=1, num_clips=1536),
        validation=replace(base.validation, num_frames=1, num_clips=32),
        image_interval=0,
        caption_styles=STYLES[style],
        optim=replace(base.optim, warmup_steps=50),
        run=replace(
            base.run,
            num_steps=num_steps,
            batch_size=batch_size,
            seed=seed,
            ema_decay=0.99,
            validate_interval=0,
            save_interval=100,
        ),
        sampling=replace(base.sampling, interval=0),
    )


def judge(model: Path, num_prompts: int) -> list[dict[str, bool]]:
    """Generate an image for each prompt, and return which facts it shows."""
    pipe, verdicts = CogVideoX.from_pretrained(model), []
    for index in range(num_prompts):
        scene = sample_scene(HELD_OUT_SEED + index, "core", split="training")
        prompt = caption_scene(scene, "plain", index, image=True, complete=True)
        video = pipe.generate(prompt, seed=index, num_frames=1)
        assert isinstance(video, Video)
        verdicts.append(judge_clip(torch.from_numpy(video.frames), scene))
    return verdicts


def summarize(runs: dict[int, list[dict[str, bool]]]) -> dict[str, Any]:
    """Return the fraction of each fact over all seeds, with a 95 % bootstrap interval over seeds and prompts."""
    rng, results = np.random.default_rng(0), {}
    for name in next(iter(runs.values()))[0]:
        right = np.array([[verdict[name] for verdict in verdicts] for verdicts in runs.values()], float)
        means = []
        for _ in range(10_000):
            seeds = right[rng.integers(len(right), size=len(right))]
            means.append(seeds[:, rng.integers(right.shape[1], size=right.shape[1])].mean())
        results[name] = [right.mean(), *np.percentile(means, (2.5, 97.5)).tolist(), right.mean(1).tolist()]
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vae", required=True, help="model folder whose VAE encodes the images")
    parser.add_argument("--out", type=Path, default=Path("build/caption-length.json"))
    parser.add_argument("--work", type=Path, default=Path("build/caption-length"), help="folder of the runs")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=96)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="time limit")
    options = parser.parse_args()
    deadline = time.monotonic() + options.seconds
    verdicts: dict[str, dict[int, list[dict[str, bool]]]] = {style: {} for style in STYLES}
    for seed in range(options.seeds):
        for style in STYLES:
            out = options.work / f"{style}-{seed}"
            if not (out / "model").exists():
                left = None if options.seconds == float("inf") else max(1.0, deadline - time.monotonic())
                run = settings(options.vae, style, seed, options.steps, options.batch_size)
                if train(run, out, resume=True, max_seconds=left) is None:
                    return
            verdicts[style][seed] = judge(out / "model", options.prompts)
        results = {style: summarize(runs) for style, runs in verdicts.items()}
        report = {"cpu": cpu_name(), "steps": options.steps, "seeds": seed + 1, "results": results}
        write_json(options.out, report)


if __name__ == "__main__":
    main()
