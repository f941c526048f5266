"""Ablation of the terms of the VAE's loss, and the VAE on more pixels and frames than in training.

    python examples/vae_training.py --num-steps 160 --long-steps 24 --out runs/vae-training

From the shipped VAE, three runs with the same clips and steps: L1 and KL only; with the perceptual loss; with the
discriminator. From the last one, a run on clips of 33 frames with the recipe `toybox-vae-2`. Then all of them are
measured on held-out clips. Existing runs in the folder are resumed, or only measured if they are complete.
"""

import argparse
from pathlib import Path

import torch

from cogvideox import config
from cogvideox.dataset.config import ToyboxClips
from cogvideox.dataset.latents.toybox_latents import render_clips
from cogvideox.geometry import encode_chunks
from cogvideox.pretrained.components import load_vae
from cogvideox.pretrained.model_spec import find_model
from cogvideox.training.recipes import HELD_OUT_SEED, RECIPES
from cogvideox.training.vae import trainer
from cogvideox.vae.conv_cache import ConvCache
from cogvideox.vae.metrics import detail, flicker, psnr
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
        "--num-clips", type=int, default=24, help="clips to measure on; a quarter of them for larger sizes"
    )
    parser.add_argument("--only", choices=[*TERMS, "long"], help="train one of the runs, and measure nothing")
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


def fine_tuning(num_steps: int, changes: dict) -> trainer.VAETraining:
    """Full clips from the first step on, with the discriminator active for most steps."""
    fixed = {
        "start": "toybox", "crop_steps": 0, "encoder_steps": num_steps, "disc_start": num_steps // 4,
        "disc_lead": num_steps // 4, "optim.lr": 3e-4, "optim.warmup_steps": 20, "run.num_steps": num_steps,
        "run.save_interval": 25, "run.validate_interval": 0, "run.log_interval": 10, "run.ema_decay": 0.98,
    }  # fmt: skip
    return config.override(RECIPES["toybox-vae-1"](), fixed | changes)


def more_frames(num_steps: int, start: Path) -> trainer.VAETraining:
    """A shorter `toybox-vae-2`."""
    changes = {
        "start": str(start), "encoder_steps": num_steps, "disc_start": num_steps // 4, "disc_lead": num_steps // 4,
        "run.num_steps": num_steps, "run.save_interval": 10, "run.validate_interval": 0, "run.ema_decay": 0.95,
    }  # fmt: skip
    return config.override(RECIPES["toybox-vae-2"](), changes)


@torch.inference_mode()
def table(vaes: dict[str, CausalVAE], num_clips: int) -> str:
    """Markdown table of PSNR in dB, and of detail and flicker relative to the originals, per VAE and clip size."""
    rows = ["| VAE | clips | PSNR | PSNR, one chunk | detail | flicker |", "|---|---|---|---|---|---|"]
    for name, vae in vaes.items():
        for size, (num_frames, side) in SIZES.items():
            few = num_clips if size == "9x64x64" else max(1, num_clips // 4)
            clips = ToyboxClips(few, first_seed=HELD_OUT_SEED, num_frames=num_frames, height=side, width=side)
            psnrs, detailed, flickering = zip(*(scores(vae, render_clips(clips, [index])) for index in range(few)))
            chunks, whole = torch.stack(psnrs).mean(0).tolist()
            ratios = [
                made / true for made, true in (torch.stack(both).mean(0).tolist() for both in (detailed, flickering))
            ]
            rows.append(f"| {name} | {size} | {chunks:.2f} | {whole:.2f} | {ratios[0]:.3f} | {ratios[1]:.3f} |")
    return "\n".join(rows)


def scores(vae: CausalVAE, video: torch.Tensor) -> list[torch.Tensor]:
    """Three pairs: PSNR in chunks and of the whole clip at once; detail of the reconstruction and of the original; and
    flicker of both."""
    made = whole = vae.decode(vae.encode(video).mean)
    if len(encode_chunks(video.shape[2])) > 1:
        mean, _ = vae.encoder(video, ConvCache()).chunk(2, dim=1)
        whole = vae.decoder(mean, ConvCache())
    pairs = [(psnr(made, video), psnr(whole, video)), *((f(made), f(video)) for f in (detail, flicker))]
    return [torch.cat(pair) for pair in pairs]


if __name__ == "__main__":
    main()
