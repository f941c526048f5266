"""Configs of training runs that take a few seconds, with real components of minimal size."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cogvideox import config
from cogvideox.dataset.config import ClipFormat, ToyboxClips
from cogvideox.dataset.mixture import DataSource
from cogvideox.diffusion.config import ScheduleConfig
from cogvideox.pretrained.components import save_vae
from cogvideox.records import Video
from cogvideox.text.config import T5Config
from cogvideox.training.config import OptimSettings, RunSettings, ToyboxSampling, ToyboxTraining, VAETraining
from cogvideox.training.diffusion import trainer
from cogvideox.training.diffusion.config import DiffusionTraining
from cogvideox.training.recipes import RECIPES
from cogvideox.training.rng import torch_generator
from cogvideox.transformer.config import TransformerConfig
from cogvideox.vae.config import DiscriminatorConfig, LossWeights, VAEConfig
from cogvideox.vae.init_weights import init_weights
from cogvideox.vae.model import CausalVAE
from tests import tiny

VAE = VAEConfig(
    block_out_channels=(4, 4, 4, 4),
    latent_channels=4,
    layers_per_block=1,
    norm_num_groups=2,
    sample_height=16,
    sample_width=16,
    scaling_factor=0.8,
)
SIZE = {"num_frames": 5, "height": 16, "width": 16}
CLIPS = ToyboxClips(num_clips=10, **SIZE)
HELD_OUT = ToyboxClips(num_clips=12, first_seed=1000, **SIZE)
OPTIM = OptimSettings(lr=1e-2, warmup_steps=2)
RUN = RunSettings(
    num_steps=8,
    batch_size=4,
    device="cpu",
    log_interval=1,
    save_interval=1,
    validate_interval=4,
)


def write_vae(folder: Path) -> Path:
    """Write a VAE with initial weights in the layout of a VAE run."""
    vae = CausalVAE(VAE)
    init_weights(vae, torch_generator("weights", 0))
    save_vae(vae, folder)
    return folder


def toybox_run(vae: Path, **run) -> ToyboxTraining:
    return ToyboxTraining(
        vae=str(vae),
        transformer=TransformerConfig(
            num_attention_heads=2,
            attention_head_dim=16,
            num_layers=2,
            in_channels=4,
            out_channels=4,
            time_embed_dim=16,
            text_embed_dim=16,
            max_text_seq_length=24,
            sample_height=2,
            sample_width=2,
            sample_frames=5,
            use_rotary_positional_embeddings=True,
        ),
        text_encoder=T5Config(vocab_size=256, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2),
        clips=CLIPS,
        validation=HELD_OUT,
        optim=replace(OPTIM, name="muon"),
        run=replace(RUN, **run),
        image_interval=3,
        sampling=ToyboxSampling(num_inference_steps=2, num_prompts=4, interval=8),
        schedule=ScheduleConfig(snr_shift_scale=1.0),
    )


def vae_run(**run) -> VAETraining:
    return VAETraining(
        model=VAE,
        clips=CLIPS,
        validation=replace(HELD_OUT, num_clips=2),
        optim=OPTIM,
        run=replace(RUN, batch_size=2, **run),
        loss=LossWeights(l1=1.0, l2=1.0, kl=1e-4),
        crop_steps=3,
        crop_size=8,
        crop_batch_size=2,
        encoder_steps=6,
        image_interval=2,
        images_per_clip=2,
    )


def vae_gan_run(**run) -> VAETraining:
    """A VAE run with all losses: the discriminator is trained from step 2, and the GAN loss starts at step 4."""
    return replace(
        vae_run(**run),
        loss=LossWeights(l1=1.0, l2=0.0, perceptual=0.5, kl=1e-4, gan=0.5),
        frame_rates=(8.0, 16.0),
        discriminator=DiscriminatorConfig(width=2, max_width=4),
        disc_start=4,
        disc_warmup_steps=2,
    )


def diffusion_run(folder: Path) -> DiffusionTraining:
    """A diffusion run of three steps on a store of images and clips of several lengths. Files are in `folder`."""
    model, clips, rng = tiny.write(folder / "model", "5b"), folder / "clips", np.random.default_rng(0)
    clips.mkdir()
    for i in range(6):
        frames = rng.integers(0, 255, ((5, 9, 1)[i % 3], 32, 32, 3), dtype=np.uint8)
        name = f"{i}.mp4" if len(frames) > 1 else f"{i}.png"
        Video(frames, fps=8.0).save(clips / name)
        (clips / f"{i}.txt").write_text(f"a red ball {i}")
    base = DiffusionTraining(
        model=str(model),
        data=(DataSource(str(clips)),),
        row_tokens=64,
        # With a small eps, gradients near zero would change the weights by a full step.
        optim=OptimSettings(lr=1e-3, warmup_steps=1, schedule="constant", eps=1e-3),
        run=RunSettings(num_steps=1, batch_size=2, device="cpu", log_interval=1, save_interval=1, ema_decay=0.5),
        target=ClipFormat(fps=8.0, num_frames=9, height=32, width=32),
        export_dtype="float32",
    )
    trainer.train(base, folder / "encoding")
    (store,) = (folder / "encoding/stores").iterdir()
    return replace(base, data=(DataSource(str(store)),), run=replace(base.run, num_steps=3))


def overrides(recipe: str, settings: ToyboxTraining | VAETraining | DiffusionTraining) -> list[str]:
    """Return the arguments of `cogvideox train RECIPE` for a run with these settings."""
    data_arguments, settings = _split_data(settings)
    defaults, values = (config.dotted(config.to_dict(run)) for run in (RECIPES[recipe](), settings))
    changed = {name: value for name, value in values.items() if value != defaults[name]}
    return data_arguments + [
        f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in changed.items()
    ]


def _split_data(settings: ToyboxTraining | VAETraining | DiffusionTraining) -> tuple[list[str], Any]:
    """Return the `--data` arguments of a diffusion run, and the settings without data."""
    if not isinstance(settings, DiffusionTraining):
        return [], settings
    return [part for source in settings.data for part in ("--data", source.store)], replace(settings, data=())
