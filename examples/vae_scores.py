"""Score a model's VAE on held-out clips: PSNR, and the judge's accuracy on reconstructions.

    python examples/vae_scores.py --num-clips 300
    python examples/vae_scores.py --num-clips 12 --num-frames 17 --height 96 --width 96 --grammar pair

Each clip is encoded and decoded in chunks, each with its own norm statistics, and also decoded at once.
"""

import argparse
import json

import torch

from cogvideox.dataset.config import ToyboxClips
from cogvideox.dataset.latents.toybox_latents import clip_scene, render_clips
from cogvideox.evaluation.reconstruction.metrics import psnr
from cogvideox.geometry import decode_chunks
from cogvideox.pretrained.model_folder import load
from cogvideox.toybox.judge.judge import fact_accuracies, judge_clips
from cogvideox.training.config import HELD_OUT_SEED
from cogvideox.vae.causal_conv import ConvCache
from cogvideox.video.transform import to_frames


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="toybox", help="a shipped model or a model folder")
    parser.add_argument("--num-clips", type=int, default=300)
    parser.add_argument("--num-frames", type=int, default=9, help="frames per clip, 4k+1; a chunk has at most 9")
    parser.add_argument("--height", type=int, default=64)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--grammar", default="core", choices=("core", "full", "pair"))
    options = parser.parse_args()

    vae = load(options.model, device=torch.device("cpu"), dtype=torch.float32).vae
    clips = ToyboxClips(
        options.num_clips,
        HELD_OUT_SEED,
        options.grammar,
        num_frames=options.num_frames,
        height=options.height,
        width=options.width,
    )
    psnrs, psnrs_at_once, verdicts = [], [], []
    for start in range(0, options.num_clips, 10):
        indices = range(start, min(start + 10, options.num_clips))
        video = render_clips(clips, indices)
        latents = vae.encode(video).mean
        reconstruction = vae.decode(latents)
        psnrs.append(psnr(reconstruction, video))
        if len(decode_chunks(latents.shape[2])) > 1:
            psnrs_at_once.append(psnr(vae.decoder(latents, ConvCache()), video))
        verdicts += judge_clips(to_frames(reconstruction), [clip_scene(clips, index) for index in indices])
    scores = {fact: round(score.value, 4) for fact, score in fact_accuracies(verdicts).items()}
    report = {"psnr": torch.cat(psnrs)} | ({"psnr_at_once": torch.cat(psnrs_at_once)} if psnrs_at_once else {})
    means = {name: round(values.mean().item(), 2) for name, values in report.items()}
    print(json.dumps(means | {"judged": scores}, indent=2))


if __name__ == "__main__":
    main()
