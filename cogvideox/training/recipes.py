"""Every run that has a name: a function that returns its whole settings. Imports no torch."""

from collections.abc import Callable

from cogvideox.dataset.config import ToyboxClips
from cogvideox.text.config import T5Config
from cogvideox.training.settings import (
    OptimSettings,
    RunSettings,
    SamplingSettings,
    TransformerTraining,
    VAETraining,
)
from cogvideox.transformer.config import TransformerConfig

# Seeds from here on are never trained on.
HELD_OUT = 1_000_000_000


def toybox() -> TransformerTraining:
    """The shipped model's transformer: 64x64, 9 frames, about an hour on two CPU cores.

    After CogVideoX-5B, an eighth as wide and a seventh as deep, with a text encoder of its own instead of T5-XXL.
    """
    text_dim = 128
    return TransformerTraining(
        vae="runs/toybox-vae",
        transformer=TransformerConfig(
            num_attention_heads=4,
            attention_head_dim=48,
            num_layers=6,
            time_embed_dim=192,
            text_embed_dim=text_dim,
            max_text_seq_length=24,
            sample_height=8,
            sample_width=8,
            sample_frames=9,
            use_rotary_positional_embeddings=True,
        ),
        text_encoder=T5Config(
            vocab_size=256,
            d_model=text_dim,
            d_kv=32,
            d_ff=256,
            num_layers=2,
            num_heads=4,
            relative_attention_max_distance=32,
        ),
        clips=ToyboxClips(num_clips=16_384),
        validation=ToyboxClips(num_clips=160, first_seed=HELD_OUT),
        optim=OptimSettings(lr=1.5e-3, warmup_steps=200, final_lr=0.05),
        run=RunSettings(num_steps=12_000, batch_size=32, ema_decay=0.9985),
        sampling=SamplingSettings(num_inference_steps=25, guidance_scale=4.0),
        stored_as="float16",
        examples=(
            "a large red ball moves right on a white background",
            "a small blue cube drifts up on a pink floor",
            "a purple cone stays still on a gray surface",
        ),
    )


RECIPES: dict[str, Callable[[], VAETraining | TransformerTraining]] = {
    "toybox": toybox,
}
