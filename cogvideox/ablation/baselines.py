"""The baselines of the ablations: a small text-to-video transformer and a small VAE, and how they are scored.

The transformer has the design of CogVideoX-5B with 1.85 M parameters; clips of the built-in world are encoded with the
shipped model's VAE and text encoder. Imports no torch.
"""

from dataclasses import replace
from typing import Any

from cogvideox.ablation.arm import Evaluation, Videos, variant
from cogvideox.dataset.config import CaptionStyle, ClipFormat, ToyboxClips, ToyboxSource
from cogvideox.training.config import HELD_OUT_SEED, OptimSettings, RunSettings, VAETraining
from cogvideox.training.diffusion.config import DiffusionTraining
from cogvideox.transformer.config import TransformerConfig
from cogvideox.vae.config import DiscriminatorConfig, LossWeights, VAEConfig

SIDE, NUM_FRAMES, FPS = 64, 9, 8.0
TEXT_LENGTH = 24
NUM_CLIPS, NUM_HELD_OUT = 4096, 64
CLIPS_PER_ROW = 8
STYLES: tuple[CaptionStyle, ...] = ("short", "plain", "dense")


def clips(num_frames: int = NUM_FRAMES, side: int = SIDE, num_clips: int = NUM_CLIPS) -> ToyboxClips:
    """Return training clips."""
    return ToyboxClips(num_clips, num_frames=num_frames, height=side, width=side, fps=FPS)


def held_out(num_frames: int = NUM_FRAMES, side: int = SIDE) -> ToyboxClips:
    """Return the held-out clips on which the validation loss is measured."""
    return replace(clips(num_frames, side, NUM_HELD_OUT), first_seed=HELD_OUT_SEED)


def num_tokens(num_frames: int = NUM_FRAMES, side: int = SIDE) -> int:
    """Return the number of tokens of a clip.

    They are text tokens, and patches of 16x16 pixels and 4 frames (the first frame is on its own).
    """
    return TEXT_LENGTH + ((num_frames - 1) // 4 + 1) * (side // 16) ** 2


def transformer(**changes: Any) -> TransformerConfig:
    """Return the config of the transformer: the shipped model's, with 3D-RoPE."""
    config = TransformerConfig(
        num_attention_heads=4,
        attention_head_dim=32,
        num_layers=6,
        time_embed_dim=64,
        text_embed_dim=128,
        max_text_seq_length=TEXT_LENGTH,
        sample_height=SIDE // 8,
        sample_width=SIDE // 8,
        sample_frames=NUM_FRAMES,
        spatial_interpolation_scale=0.5,
        temporal_interpolation_scale=0.5,
        use_rotary_positional_embeddings=True,
    )
    return replace(config, **changes)


def diffusion(changes: dict[str, Any] | None = None) -> DiffusionTraining:
    """Return the training config of the transformer: 32 clips per step, in four packed rows.

    Args:
        changes: changed settings by dotted name.
    """
    base = DiffusionTraining(
        model="toybox",
        transformer=transformer(),
        row_tokens=CLIPS_PER_ROW * num_tokens(),
        optim=OptimSettings(name="muon", lr=3e-3, warmup_steps=60, final_lr=0.1),
        run=RunSettings(num_steps=3_000, batch_size=4, ema_decay=0.993),
        target=ClipFormat(fps=FPS, num_frames=NUM_FRAMES, height=SIDE, width=SIDE),
        toybox=(ToyboxSource(clips(), caption_styles=STYLES),),
        export_dtype="float32",
    )
    return variant(base, changes or {})


def diffusion_evaluation(**changes: Any) -> Evaluation:
    """Return the evaluation of the transformer at the trained size."""
    return replace(Evaluation({"": held_out()}, {"": Videos(NUM_FRAMES, SIDE, SIDE)}), **changes)


def vae(changes: dict[str, Any] | None = None) -> VAETraining:
    """Return the training config of a VAE on clips of 9 frames of 32x32, with reconstruction and KL losses.

    Args:
        changes: changed settings by dotted name.
    """
    train_clips = ToyboxClips(100_000, num_frames=NUM_FRAMES, height=32, width=32, fps=FPS)
    base = VAETraining(
        model=VAEConfig(
            block_out_channels=(16, 32, 64, 64),
            layers_per_block=1,
            norm_num_groups=8,
            sample_height=32,
            sample_width=32,
            scaling_factor=1.0,
        ),
        clips=train_clips,
        validation=replace(train_clips, num_clips=6, first_seed=HELD_OUT_SEED),
        optim=OptimSettings(lr=2e-3, betas=(0.9, 0.99), warmup_steps=60, final_lr=0.05),
        run=RunSettings(num_steps=3_000, batch_size=4, ema_decay=0.993),
        loss=LossWeights(l1=1.0, l2=1.0, kl=2e-4),
        crop_steps=0,
        crop_size=32,
        crop_batch_size=4,
        encoder_steps=3_000,
        image_interval=10,
        images_per_clip=4,
        discriminator=DiscriminatorConfig(width=16, max_width=64),
        disc_optim=OptimSettings(lr=1e-3, betas=(0.5, 0.9), weight_decay=0.0, schedule="constant"),
    )
    return variant(base, changes or {})


def vae_evaluation(**changes: Any) -> Evaluation:
    """Return the evaluation of the VAE on clips of the trained size."""
    return replace(Evaluation({"": held_out(side=32)}), **changes)
