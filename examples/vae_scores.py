"""Score a model's VAE on clips it never saw: PSNR, and what the judge still reads from the reconstructions.

python examples/vae_scores.py --num-clips 300
"""

import argparse
import json

import torch

from cogvideox.bundle.folder import load
from cogvideox.dataset.config import ToyboxClips
from cogvideox.dataset.encode import render, scene
from cogvideox.toybox.judge import judge_batch, rates
from cogvideox.training.recipes import HELD_OUT
from cogvideox.vae.loss import psnr
from cogvideox.video.transform import to_frames


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="toybox", help="a shipped name or a folder")
    parser.add_argument("--num-clips", type=int, default=300)
    options = parser.parse_args()

    vae = load(options.model, device=torch.device("cpu"), dtype=torch.float32).vae
    clips = ToyboxClips(num_clips=options.num_clips, first_seed=HELD_OUT)
    decibels, verdicts = [], []
    for start in range(0, options.num_clips, 10):
        indices = range(start, min(start + 10, options.num_clips))
        video = render(clips, indices)
        reconstruction = vae.decode(vae.encode(video).mean)
        decibels.append(psnr(reconstruction, video))
        verdicts += judge_batch(to_frames(reconstruction), [scene(clips, index) for index in indices])
    scores = {fact: round(score.value, 4) for fact, score in rates(verdicts).items()}
    print(json.dumps({"psnr": round(torch.cat(decibels).mean().item(), 2), "judged": scores}, indent=2))


if __name__ == "__main__":
    main()
