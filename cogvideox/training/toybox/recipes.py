"""Recipes of the shipped model, in stages as in the paper: the text encoder, the transformer at a low and at a high
resolution, and a final stage at a low learning rate. The VAE's recipes are `toybox-vae-1` and `toybox-vae-2`.
"""

from collections.abc import Callable
from dataclasses import replace

from cogvideox.dataset.config import ClipFormat, ToyboxClips, ToyboxSource
from cogvideox.diffusion.config import ScheduleConfig
from cogvideox.text.config import T5Config
from cogvideox.toybox.scenes.grammar import TEXT_LENGTHS
from cogvideox.training.config import HELD_OUT_SEED, OptimSettings, RunSettings
from cogvideox.training.diffusion.config import DiffusionTraining, SampleSettings
from cogvideox.training.text_encoder.config import TextEncoderTraining
from cogvideox.transformer.config import TransformerConfig

BASE = "runs/toybox-base/model"
"""Model folder with the trained VAE and text encoder, and a transformer with initial weights (`toybox.base_model`)."""
SCHEDULE = ScheduleConfig(snr_shift_scale=10.0)
PROMPTS = (
    "a large red ball moves right on a white background",
    "a small blue cube drifts up on a pink floor",
    "a purple cone stays still on a gray surface",
    "a tiny green ball slides down on a black floor",
    "a small yellow cone moves left on a brown background",
    "a large orange cube stays in place on a cyan floor",
    "a small red cube moves from left to right on a white floor",
    "a small red cube moves from right to left on a white floor",
    "a large green ball goes from right to left on a gray background",
    "a large green ball goes from left to right on a gray background",
    "a red cube and a blue ball on a white floor",
    "a blue cube and a red ball on a white floor",
    "a small green ball moves left and a small purple cube moves right on a black floor",
    "a small yellow cone stays still and a small blue ball moves up on a pink floor",
    "two small orange cubes move down on a gray floor",
    "a crimson orb falls on a light blue table",
)


def toybox_transformer() -> TransformerConfig:
    """Config of the next shipped transformer: the 2B model with a tenth of its width and a quarter of its depth."""
    return TransformerConfig(
        num_attention_heads=3,
        attention_head_dim=64,
        num_layers=8,
        time_embed_dim=128,
        text_embed_dim=128,
        max_text_seq_length=TEXT_LENGTHS["pair"],
        sample_height=12,
        sample_width=12,
        sample_frames=17,
        spatial_interpolation_scale=0.5,
        temporal_interpolation_scale=0.5,
    )


def toybox_text_encoder() -> TextEncoderTraining:
    """The shipped model's text encoder: a T5 encoder of 4 layers, trained by span corruption on toybox captions."""
    return TextEncoderTraining(
        model=T5Config(
            vocab_size=448,
            d_model=128,
            d_kv=32,
            d_ff=256,
            num_layers=4,
            num_heads=4,
            relative_attention_max_distance=32,
        ),
        text_length=TEXT_LENGTHS["pair"],
        num_decoder_layers=2,
        optim=OptimSettings(name="muon", lr=5e-3, betas=(0.9, 0.98), warmup_steps=200, final_lr=0.02),
        run=RunSettings(num_steps=5_000, batch_size=64, log_interval=50, save_interval=500, validate_interval=500),
    )


def toybox_pretrain_low() -> DiffusionTraining:
    """A small `pretrain-256`: the shipped model's transformer from scratch, images of 96x96 and 17 frames of 64x64."""
    clips = _clips(num_clips=6_144, height=64, width=64)
    return DiffusionTraining(
        model=BASE,
        row_tokens=880,
        optim=OptimSettings(name="muon", lr=3e-3, warmup_steps=200, final_lr=0.1),
        run=RunSettings(num_steps=8_000, batch_size=4, log_interval=20, save_interval=200, validate_interval=500),
        target=ClipFormat(fps=8.0, num_frames=17, height=64, width=64),
        toybox=(ToyboxSource(_images(), 0.4), ToyboxSource(clips, 0.6)),
        toybox_validation=replace(clips, num_clips=64, first_seed=HELD_OUT_SEED),
        samples=SampleSettings(PROMPTS, interval=1_000, num_frames=17, height=64, width=64),
        export_dtype="float16",
    )


def toybox_pretrain_high() -> DiffusionTraining:
    """A small `pretrain-480`: from `toybox-pretrain-low`, at 96x96, with some of its images and clips.

    Most clips have two toys, because which motion belongs to which toy is learned last.
    """
    low, clips = toybox_pretrain_low(), _clips(num_clips=8_192)
    return replace(
        low,
        model="runs/toybox-pretrain-low/model",
        optim=OptimSettings(name="muon", lr=2e-3, warmup_steps=50, final_lr=0.1),
        target=ClipFormat(fps=8.0, num_frames=17, height=96, width=96),
        toybox=(
            ToyboxSource(_images(), 0.15),
            ToyboxSource(low.toybox[1].clips, 0.4, num_toys=2),
            ToyboxSource(clips, 0.15),
            ToyboxSource(clips, 0.3, num_toys=2),
        ),
        toybox_validation=replace(clips, num_clips=64, first_seed=HELD_OUT_SEED),
        samples=SampleSettings(PROMPTS, interval=1_000),
    )


def toybox_pretrain_final() -> DiffusionTraining:
    """A small `quality`: from `toybox-pretrain-high`, mainly on clips of 96x96, with detailed captions."""
    high = toybox_pretrain_high()
    styles, clips = ("plain", "plain", "dense", "free", "free"), _clips(num_clips=8_192)
    return replace(
        high,
        model="runs/toybox-pretrain-high/model",
        optim=OptimSettings(name="muon", lr=4e-4, warmup_steps=20, final_lr=0.05),
        run=replace(high.run, num_steps=1_500),
        toybox=(
            ToyboxSource(_images(), 0.1, styles),
            ToyboxSource(clips, 0.45, styles),
            ToyboxSource(clips, 0.45, styles, num_toys=2),
        ),
    )


def _clips(*, num_clips: int, height: int = 96, width: int = 96) -> ToyboxClips:
    return ToyboxClips(num_clips, grammar="pair", num_frames=17, height=height, width=width)


def _images() -> ToyboxClips:
    return replace(_clips(num_clips=8_192), first_frames=True)


CHAIN: dict[str, Callable[[], DiffusionTraining]] = {
    "toybox-pretrain-low": toybox_pretrain_low,
    "toybox-pretrain-high": toybox_pretrain_high,
    "toybox-pretrain-final": toybox_pretrain_final,
}
"""The stages of the transformer, in order."""
