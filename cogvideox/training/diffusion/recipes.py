"""Recipes of the paper's training stages (appendix A, table 5) and of fine-tuning, each with a small version for a CPU.

Sizes, durations, sequence lengths, samples per step and numbers of steps are the paper's. The batch size in rows is
chosen to match the samples per step. Learning rates are not published; the values here are not tested at full size.
"""

from collections.abc import Callable
from dataclasses import replace

from cogvideox.dataset.config import ClipFormat
from cogvideox.filter_policy.policy import Bound, Policy
from cogvideox.training.config import OptimSettings, RunSettings
from cogvideox.training.diffusion.config import DiffusionTraining, SampleSettings
from cogvideox.transformer.config import TransformerConfig
from cogvideox.transformer.lora.config import LoRASettings
from cogvideox.transformer.presets import PRESETS

BASE = "THUDM/CogVideoX-5b"
TOY_PROMPTS = (
    "a large red ball moves right on a white background",
    "a small blue cube drifts up on a pink floor",
    "a purple cone stays still on a gray surface",
    "a large yellow ball moves left on a black background",
)


def pretrain_256() -> DiffusionTraining:
    """Stage 1 of the paper, from scratch: up to 256x384 and 6 s, mixed with images; rows of 25k tokens."""
    return DiffusionTraining(
        model=BASE,
        transformer=PRESETS["5b"](),
        row_tokens=25_000,
        optim=OptimSettings(lr=1e-4, warmup_steps=10_000, final_lr=0.1),
        run=RunSettings(num_steps=400_000, batch_size=416, precision="bfloat16", workers=8, save_interval=1_000),
        target=ClipFormat(fps=8.0, num_frames=49, max_area=256 * 384),
        image_fraction=0.2,
        checkpointing="selective",
        position_rule="slice",
    )


def pretrain_480() -> DiffusionTraining:
    """Stage 2: from `pretrain-256`, at up to 480x720; rows of 75k tokens. Positions are extrapolated."""
    return replace(
        pretrain_256(),
        model="runs/pretrain-256/model",
        transformer=None,
        row_tokens=75_000,
        optim=OptimSettings(lr=5e-5, warmup_steps=1_000, final_lr=0.1),
        run=RunSettings(num_steps=220_000, batch_size=240, precision="bfloat16", workers=8, save_interval=1_000),
        target=ClipFormat(fps=8.0, num_frames=49, max_area=480 * 720),
    )


def pretrain_768() -> DiffusionTraining:
    """Stage 3: from `pretrain-480`, at up to 768x1360 and 10 s; rows of 700k tokens, sequence parallel."""
    return replace(
        pretrain_480(),
        model="runs/pretrain-480/model",
        row_tokens=700_000,
        optim=OptimSettings(lr=2e-5, warmup_steps=1_000, final_lr=0.1),
        run=RunSettings(num_steps=120_000, batch_size=32, precision="bfloat16", workers=8, save_interval=500),
        target=ClipFormat(fps=16.0, num_frames=161, max_area=768 * 1360),
        checkpointing="full",
        sequence=8,
    )


def quality() -> DiffusionTraining:
    """Last stage: the 20% of the data with the highest `quality` score, to remove subtitles and watermarks."""
    return replace(
        pretrain_768(),
        model="runs/pretrain-768/model",
        optim=OptimSettings(lr=1e-5, warmup_steps=200, final_lr=0.1),
        run=RunSettings(num_steps=10_000, batch_size=13, precision="bfloat16", workers=8, save_interval=500),
        policy=Policy((Bound("quality", best=0.2),)),
    )


def sft() -> DiffusionTraining:
    """Full fine-tuning of an official model on your clips, at its native size."""
    return DiffusionTraining(
        model=BASE,
        row_tokens=18_000,
        optim=OptimSettings(lr=1e-5, warmup_steps=50, schedule="constant"),
        run=RunSettings(num_steps=500, batch_size=8, precision="bfloat16", save_interval=100, ema_decay=0.99),
        target=ClipFormat(fps=8.0, num_frames=49, height=480, width=720),
        checkpointing="full",
    )


def lora() -> DiffusionTraining:
    """LoRA training of an official model on your clips, at its native size."""
    return replace(
        sft(),
        lora=LoRASettings(),
        optim=OptimSettings(lr=1e-4, warmup_steps=50, schedule="constant"),
        run=RunSettings(num_steps=1_000, batch_size=4, precision="bfloat16", save_interval=200, ema_decay=0.99),
    )


def i2v() -> DiffusionTraining:
    """Image-to-video training of a text-to-video model (appendix D): image latents are concatenated to the noise."""
    return replace(
        sft(),
        add_image=True,
        image_fraction=0.0,
        optim=OptimSettings(lr=2e-5, warmup_steps=500, final_lr=0.1),
        run=RunSettings(num_steps=20_000, batch_size=64, precision="bfloat16", workers=8, save_interval=500),
    )


def toy_transformer() -> TransformerConfig:
    """Config of the shipped model's transformer: the 2B model with 1/12 of its width and 1/5 of its depth."""
    return TransformerConfig(
        num_attention_heads=5,
        attention_head_dim=32,
        num_layers=6,
        time_embed_dim=128,
        text_embed_dim=128,
        max_text_seq_length=24,
        sample_height=8,
        sample_width=8,
        sample_frames=9,
        spatial_interpolation_scale=0.5,
        temporal_interpolation_scale=0.5,
    )


def toybox_pretrain_256() -> DiffusionTraining:
    """A small `pretrain-256`: the shipped model's transformer from scratch, on clips of at most 48x48."""
    return DiffusionTraining(
        model="toybox",
        transformer=toy_transformer(),
        row_tokens=512,
        optim=OptimSettings(name="muon", lr=3e-3, warmup_steps=100, final_lr=0.1),
        run=RunSettings(num_steps=2_000, batch_size=4, save_interval=200, validate_interval=200),
        target=ClipFormat(fps=8.0, num_frames=9, max_area=48 * 48),
        image_fraction=0.2,
        samples=SampleSettings(TOY_PROMPTS, interval=500, num_frames=9, height=48, width=48),
        export_dtype="float16",
    )


def toybox_pretrain_480() -> DiffusionTraining:
    """A small `pretrain-480`: from `toybox-pretrain-256`, at 64x64."""
    return replace(
        toybox_pretrain_256(),
        model="runs/toybox-pretrain-256/model",
        transformer=None,
        row_tokens=640,
        optim=OptimSettings(name="muon", lr=1e-3, warmup_steps=50, final_lr=0.1),
        run=RunSettings(num_steps=1_000, batch_size=4, save_interval=200, validate_interval=200),
        target=ClipFormat(fps=8.0, num_frames=9, max_area=64 * 64),
        samples=SampleSettings(TOY_PROMPTS, interval=500, num_frames=9, height=64, width=64),
    )


def toybox_quality() -> DiffusionTraining:
    """A small `quality`: from `toybox-pretrain-480`, on the best 20% of its clips."""
    return replace(
        toybox_pretrain_480(),
        model="runs/toybox-pretrain-480/model",
        optim=OptimSettings(lr=2e-4, warmup_steps=20, final_lr=0.1),
        run=RunSettings(num_steps=300, batch_size=4, save_interval=100, validate_interval=100, ema_decay=0.99),
        policy=Policy((Bound("quality", best=0.2),)),
    )


def toybox_sft() -> DiffusionTraining:
    """A small `sft`: the shipped model, a few hundred steps on your clips."""
    return replace(
        toybox_pretrain_480(),
        model="toybox",
        optim=OptimSettings(lr=1e-4, warmup_steps=20, schedule="constant"),
        run=RunSettings(num_steps=200, batch_size=1, save_interval=50, validate_interval=100, ema_decay=0.99),
        target=ClipFormat(fps=8.0, num_frames=9, height=64, width=64),
        image_fraction=None,
    )


def toybox_i2v() -> DiffusionTraining:
    """A small `i2v`: image-to-video training of the shipped model on your clips."""
    return replace(
        toybox_sft(),
        add_image=True,
        image_fraction=0.0,
        optim=OptimSettings(name="muon", lr=2e-3, warmup_steps=50, final_lr=0.1),
        run=RunSettings(num_steps=1_000, batch_size=2, save_interval=200, validate_interval=200, ema_decay=0.99),
        samples=SampleSettings(),
    )


def toybox_lora() -> DiffusionTraining:
    """A small `lora`: LoRA training of the shipped model on your clips, which takes about a minute on two CPU cores."""
    return replace(
        toybox_sft(),
        lora=LoRASettings(rank=16),
        optim=OptimSettings(lr=2e-3, warmup_steps=20, schedule="constant"),
    )


Recipes = dict[str, Callable[[], DiffusionTraining]]

FINE_TUNING: Recipes = {
    "lora": lora,
    "sft": sft,
    "i2v": i2v,
    "toybox-lora": toybox_lora,
    "toybox-sft": toybox_sft,
    "toybox-i2v": toybox_i2v,
}
PRETRAINING: Recipes = {
    "pretrain-256": pretrain_256,
    "pretrain-480": pretrain_480,
    "pretrain-768": pretrain_768,
    "quality": quality,
    "toybox-pretrain-256": toybox_pretrain_256,
    "toybox-pretrain-480": toybox_pretrain_480,
    "toybox-quality": toybox_quality,
}
RECIPES: Recipes = FINE_TUNING | PRETRAINING
