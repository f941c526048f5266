"""Training recipes: named functions that return a complete config."""

from collections.abc import Callable
from dataclasses import replace

from cogvideox.dataset.config import ToyboxClips
from cogvideox.diffusion.config import ScheduleConfig
from cogvideox.text.config import T5Config
from cogvideox.training.captioner.config import CaptionerTraining, SummarizerTraining
from cogvideox.training.captioner.recipes import CAPTIONING
from cogvideox.training.config import (
    HELD_OUT_SEED,
    OptimSettings,
    RunSettings,
    ToyboxSampling,
    ToyboxTraining,
    VAETraining,
)
from cogvideox.training.diffusion.config import DiffusionTraining
from cogvideox.training.diffusion.recipes import FINE_TUNING, PRETRAINING, toy_transformer
from cogvideox.training.text_encoder.config import TextEncoderTraining
from cogvideox.training.toybox.recipes import CHAIN, toybox_text_encoder
from cogvideox.vae.config import DiscriminatorConfig, LossWeights, VAEConfig


def toybox_vae() -> VAETraining:
    """The shipped model's VAE: the official architecture with few channels, less than an hour on two CPU cores.

    The first 3,500 steps use crops of 32x32 pixels. Group norms pool over a chunk, so the encoder's last 3,500 steps
    use whole clips of 9 frames, one chunk of the official VAE. Then the encoder is frozen.
    """
    return VAETraining(
        model=VAEConfig(
            block_out_channels=(16, 32, 64, 64),
            layers_per_block=1,
            norm_num_groups=8,
            sample_height=64,
            sample_width=64,
            scaling_factor=1.0,
        ),
        clips=ToyboxClips(num_clips=100_000),
        validation=ToyboxClips(num_clips=64, first_seed=HELD_OUT_SEED),
        optim=OptimSettings(lr=2e-3, betas=(0.9, 0.99), final_lr=0.02),
        run=RunSettings(num_steps=10_000, batch_size=2, log_interval=50, save_interval=500, validate_interval=500),
        loss=LossWeights(l1=1.0, l2=1.0, kl=2e-4),
        crop_steps=3_500,
        crop_size=32,
        crop_batch_size=4,
        encoder_steps=7_000,
        image_interval=10,
        images_per_clip=4,
    )


def toybox() -> ToyboxTraining:
    """The shipped model's transformer: 64x64, 9 frames, about an hour on two CPU cores.

    Like CogVideoX-2B with 1/12 of the width and 1/5 of the depth, and a small text encoder instead of T5-XXL. The text
    encoder keeps its random initial weights: its features distinguish words, and the transformer learns their meaning.
    The noise schedule is shifted, because toys remain visible in very noisy latents.
    """
    text_dim = 128
    return ToyboxTraining(
        vae="runs/toybox-vae",
        transformer=toy_transformer(),
        text_encoder=T5Config(
            vocab_size=256,
            d_model=text_dim,
            d_kv=32,
            d_ff=256,
            num_layers=2,
            num_heads=4,
            relative_attention_max_distance=32,
        ),
        clips=ToyboxClips(num_clips=15_360),
        validation=ToyboxClips(num_clips=160, first_seed=HELD_OUT_SEED),
        optim=OptimSettings(name="muon", lr=3e-3, warmup_steps=200, final_lr=0.05),
        run=RunSettings(num_steps=14_000, batch_size=32, ema_decay=0.999),
        sampling=ToyboxSampling(num_inference_steps=25, guidance_scale=4.0),
        schedule=ScheduleConfig(snr_shift_scale=10.0),
        image_interval=5,
        export_dtype="float16",
        examples=(
            "a large red ball moves right on a white background",
            "a small blue cube drifts up on a pink floor",
            "a purple cone stays still on a gray surface",
        ),
    )


def toybox_vae_gpu() -> VAETraining:
    """`toybox-vae` for a GPU: the same network, 14 times the clips, about ten minutes on one H200.

    All steps use whole clips. Not compiled: compiling four graphs (clips and images, with and without the encoder's
    gradient) would take a large part of the time.
    """
    base = toybox_vae()
    return replace(
        base,
        clips=replace(base.clips, num_clips=500_000),
        optim=replace(base.optim, warmup_steps=200),
        run=replace(
            base.run,
            num_steps=6_000,
            batch_size=64,
            precision="bfloat16",
            workers=14,
            log_interval=100,
            save_interval=1_000,
            validate_interval=1_000,
        ),
        crop_steps=0,
        encoder_steps=4_000,
    )


def toybox_gpu() -> ToyboxTraining:
    """`toybox` for a GPU: twice the parameters, 18 times the samples, about ten minutes on one H200."""
    base = toybox()
    return replace(
        base,
        vae="runs/toybox-vae-gpu",
        transformer=replace(base.transformer, num_attention_heads=6, num_layers=12, time_embed_dim=64),
        clips=replace(base.clips, num_clips=65_536),
        optim=replace(base.optim, warmup_steps=500, final_lr=0.02),
        run=replace(
            base.run,
            num_steps=16_000,
            batch_size=512,
            precision="bfloat16",
            compile=True,
            workers=14,
            ema_decay=0.9995,
            log_interval=100,
            save_interval=1_000,
            validate_interval=2_000,
        ),
        sampling=replace(base.sampling, interval=4_000),
    )


def vae_1() -> VAETraining:
    """Stage 1 of the paper's VAE: clips of 17 frames at 256x256 and 8 or 16 fps, mixed with images.

    From section 2.1: sizes, frame rates, and a GAN loss after a few thousand steps. Loss weights, learning rates, batch
    size and number of steps are not published; the values here are not tested at this size.
    """
    clips = ToyboxClips(num_clips=10_000_000, num_frames=17, height=256, width=256)
    return VAETraining(
        model=VAEConfig(scaling_factor=1.0, sample_height=256, sample_width=256),
        data="data",
        clips=clips,
        validation=replace(clips, num_clips=64, first_seed=HELD_OUT_SEED),
        optim=OptimSettings(lr=1e-4, betas=(0.9, 0.99), warmup_steps=1_000, final_lr=0.1),
        run=RunSettings(
            num_steps=200_000,
            batch_size=2,
            precision="bfloat16",
            workers=8,
            log_interval=50,
            save_interval=1_000,
            validate_interval=2_000,
        ),
        loss=LossWeights(l1=1.0, l2=0.0, perceptual=1.0, kl=1e-6, gan=0.1),
        crop_steps=0,
        crop_size=256,
        crop_batch_size=1,
        encoder_steps=200_000,
        image_interval=5,
        images_per_clip=8,
        frame_rates=(8.0, 16.0),
        disc_start=5_000,
        disc_warmup_steps=1_000,
    )


def vae_2() -> VAETraining:
    """Stage 2 of the paper's VAE: from `vae-1`, on clips of 161 frames, with context parallelism over all ranks."""
    base = vae_1()
    return replace(
        base,
        init_from="runs/vae-1",
        clips=replace(base.clips, num_frames=161),
        validation=replace(base.validation, num_frames=161, num_clips=16),
        optim=replace(base.optim, lr=2e-5),
        run=replace(base.run, num_steps=20_000, batch_size=1),
        encoder_steps=20_000,
        whole_clips=True,
        context_parallel=0,
        disc_start=1_000,
    )


def toybox_vae_1() -> VAETraining:
    """A small `vae-1` for two CPU cores: one or two toys, 9 frames of 96x96, crops first; perceptual and GAN losses."""
    base = toybox_vae()
    clips = ToyboxClips(num_clips=100_000, grammar="pair", height=96, width=96)
    return replace(
        base,
        model=replace(base.model, sample_height=96, sample_width=96),
        clips=clips,
        validation=replace(clips, num_clips=32, first_seed=HELD_OUT_SEED),
        run=RunSettings(num_steps=5_000, batch_size=1, log_interval=50, save_interval=1_000, validate_interval=1_000),
        loss=LossWeights(l1=1.0, l2=1.0, perceptual=0.1, kl=2e-4, gan=0.05),
        crop_steps=3_500,
        crop_size=48,
        encoder_steps=5_000,
        frame_rates=(8.0, 16.0),
        discriminator=DiscriminatorConfig(width=16, max_width=64),
        disc_optim=OptimSettings(lr=1e-3, betas=(0.5, 0.9), weight_decay=0.0, schedule="constant"),
        disc_start=4_600,
        disc_warmup_steps=300,
    )


def toybox_vae_2() -> VAETraining:
    """A small `vae-2`: from `toybox-vae-1`, on clips of 17 frames. The encoder is final after 500 steps."""
    base = toybox_vae_1()
    return replace(
        base,
        init_from="runs/toybox-vae-1",
        clips=replace(base.clips, num_frames=17),
        validation=replace(base.validation, num_frames=17),
        optim=replace(base.optim, lr=5e-4, warmup_steps=20),
        run=RunSettings(num_steps=4_000, batch_size=1, log_interval=50, save_interval=250, validate_interval=500),
        crop_steps=0,
        encoder_steps=500,
        disc_start=3_500,
        disc_warmup_steps=200,
    )


Recipe = Callable[
    [],
    VAETraining | TextEncoderTraining | ToyboxTraining | DiffusionTraining | SummarizerTraining | CaptionerTraining,
]

GROUPS: dict[str, dict[str, Recipe]] = {
    "Fine-tuning on your videos": {**FINE_TUNING},
    "The paper's pretraining stages": {**PRETRAINING},
    "The paper's VAE training": {
        "vae-1": vae_1,
        "vae-2": vae_2,
        "toybox-vae-1": toybox_vae_1,
        "toybox-vae-2": toybox_vae_2,
    },
    "Captioning models": {**CAPTIONING},
    "The shipped model from scratch": {
        "toybox-vae": toybox_vae,
        "toybox-text-encoder": toybox_text_encoder,
        **CHAIN,
        "toybox": toybox,
        "toybox-vae-gpu": toybox_vae_gpu,
        "toybox-gpu": toybox_gpu,
    },
}
"""Recipes by purpose."""
RECIPES: dict[str, Recipe] = {name: recipe for group in GROUPS.values() for name, recipe in group.items()}
