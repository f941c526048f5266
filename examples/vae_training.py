"""Ablation of the VAE's loss terms, and scores of the VAE on larger and longer clips than in training.

    python examples/vae_training.py --num-steps 160 --long-steps 24 --out runs/vae-training

Three runs fine-tune the shipped VAE with the same clips and steps: without perceptual and GAN loss, with the perceptual
loss, and with both. A fourth run continues the last one on clips of 33 frames with the recipe `toybox-vae-2`. Then all
VAEs are scored on held-out clips. Existing runs in the folder are resumed, or only scored if they are complete.
"""

import argparse
from pathlib import Path

import torch

from cogvideox import config
from cogvideox.dataset.config import ToyboxClips
from cogvideox.dataset.latents.toybox_latents import render_clips
from cogvideox.evaluation.reconstruction.metrics import detail, flicker, psnr
from cogvideox.geometry import encode_chunks
from cogvideox.pretrained.components import load_vae
from cogvideox.pretrained.model_spec import find_model
from cogvideox.training.config import HELD_OUT_SEED
from cogvideox.training.recipes import RECIPES
from cogvideox.training.vae import trainer
from cogvideox.vae.causal_conv import ConvCache
from cogvideox.vae.model import CausalVAE

TERMS = {
    "pixels": {"loss.perceptual": 0.0, "loss.gan": 0.0},
    "perceptual": {"loss.gan": 0.0},
    "gan": {},
}
SIZES = {"9x64x64": (9, 64), "9x96x96": (9, 96), "9x128x128": (9, 128), "17x64x64": (17, 64), "33x64x64": (33, 64)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-steps", type=int, default=160, help="training steps of each of the three runs")
    parser.add_argument("--long-steps", type=int, default=24, help="training steps of the run on 33 frames; 0 skips it")
    parser.add_argument(
        "--num-clips", type=int, default=24, help="number of clips to score at 9x64x64; a quarter at other sizes"
    )
    parser.add_argument("--only", choices=[*TERMS, "long"], help="train only this run, without scoring")
    parser.add_argument("--out", type=Path, default=Path("runs/vae-training"))
    options = parser.parse_args()

    runs = {name: (fine_tuning(options.num_steps, changes), options.out / name) for name, changes in TERMS.items()}
    if options.long_steps:
        runs["long"] = more_frames(options.long_steps, options.out / "gan"), options.out / "long"
    for name, (settings, out) in runs.items():
        if options.only in (None, name):
            trainer.train(settings, out, resume=True)
    if options.only is None:
        vaes = {"shipped": find_model("toybox")[1]} | {name: out for name, (_, out) in runs.items()}
        print(table({name: load_vae(folder) for name, folder in vaes.items()}, options.num_clips))


# The published figures were measured on core scenes of 64x64, with these weights of the terms.
SMALL = {
    "clips.grammar": "core", "clips.height": 64, "clips.width": 64,
    "validation.grammar": "core", "validation.height": 64, "validation.width": 64,
    "loss.perceptual": 0.3, "loss.gan": 0.3,
}  # fmt: skip


def fine_tuning(num_steps: int, changes: dict) -> trainer.VAETraining:
    """Return settings with whole clips from the first step, and the GAN loss in most steps."""
    fixed = {
        "init_from": "toybox", "crop_steps": 0, "encoder_steps": num_steps, "disc_start": num_steps // 4,
        "disc_warmup_steps": num_steps // 4, "optim.lr": 3e-4, "optim.warmup_steps": 20, "run.num_steps": num_steps,
        "run.save_interval": 25, "run.validate_interval": 0, "run.log_interval": 10, "run.ema_decay": 0.98,
        "run.batch_size": 2,
    }  # fmt: skip
    return config.override(RECIPES["toybox-vae-1"](), SMALL | fixed | changes)


def more_frames(num_steps: int, init_from: Path) -> trainer.VAETraining:
    """Return the settings of a short `toybox-vae-2`, on more frames."""
    changes = {
        "init_from": str(init_from), "encoder_steps": num_steps, "disc_start": num_steps // 4,
        "disc_warmup_steps": num_steps // 4, "run.num_steps": num_steps, "run.save_interval": 10,
        "run.validate_interval": 0, "run.ema_decay": 0.95, "clips.num_frames": 33, "validation.num_frames": 33,
        "optim.lr": 3e-4,
    }  # fmt: skip
    return config.override(RECIPES["toybox-vae-2"](), SMALL | changes)


@torch.inference_mode()
def table(vaes: dict[str, CausalVAE], num_clips: int) -> str:
    """Return a Markdown table of PSNR, and detail and flicker relative to the originals, per VAE and clip size."""
    rows = ["| VAE | clips | PSNR | PSNR, one chunk | detail | flicker |", "|---|---|---|---|---|---|"]
    for name, vae in vaes.items():
        for size, (num_frames, side) in SIZES.items():
            number = num_clips if size == "9x64x64" else max(1, num_clips // 4)
            clips = ToyboxClips(number, first_seed=HELD_OUT_SEED, num_frames=num_frames, height=side, width=side)
            psnrs, details, flickers = zip(*(score(vae, render_clips(clips, [index])) for index in range(number)))
            chunked, at_once = torch.stack(psnrs).mean(0).tolist()
            means = (torch.stack(pairs).mean(0).tolist() for pairs in (details, flickers))
            detail_ratio, flicker_ratio = (reconstructed / original for reconstructed, original in means)
            rows.append(
                f"| {name} | {size} | {chunked:.2f} | {at_once:.2f} | {detail_ratio:.3f} | {flicker_ratio:.3f} |"
            )
    return "\n".join(rows)


def score(vae: CausalVAE, video: torch.Tensor) -> list[torch.Tensor]:
    """Return pairs: PSNR in chunks and at once; detail of reconstruction and original; flicker of both."""
    chunked = at_once = vae.decode(vae.encode(video).mean)
    if len(encode_chunks(video.shape[2])) > 1:
        mean, _ = vae.encoder(video, ConvCache()).chunk(2, dim=1)
        at_once = vae.decoder(mean, ConvCache())
    metrics = ((metric(chunked), metric(video)) for metric in (detail, flicker))
    pairs = [(psnr(chunked, video), psnr(at_once, video)), *metrics]
    return [torch.cat(pair) for pair in pairs]


if __name__ == "__main__":
    main()
