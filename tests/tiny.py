"""Complete models with a few thousand random parameters, in the five official variants, to test whole pipelines."""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import torch

from cogvideox.diffusion.schedule import Schedule
from cogvideox.pretrained import model_folder
from cogvideox.pretrained.model_folder import LoadedModel
from cogvideox.pretrained.model_settings import ModelSettings, TrainedRange
from cogvideox.text.config import T5Config
from cogvideox.text.encoder import T5Encoder
from cogvideox.text.tokenizer import Tokenizer, train_toy_tokenizer
from cogvideox.transformer.config import TransformerConfig
from cogvideox.transformer.model import Transformer
from cogvideox.vae.config import VAEConfig
from cogvideox.vae.model import CausalVAE

TEXT_LENGTH = 12
CAPTIONS = ["a red ball moves to the right on a blue floor", "a green cube stands still", "one small thing"]
WIDTHS = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "num_layers": 2,
    "time_embed_dim": 16,
    "text_embed_dim": 32,
    "max_text_seq_length": TEXT_LENGTH,
    "in_channels": 4,
    "out_channels": 4,
    "sample_frames": 9,
}
TRANSFORMERS = {
    "2b": TransformerConfig(**WIDTHS, sample_height=4, sample_width=6),
    "5b": TransformerConfig(**WIDTHS, sample_height=4, sample_width=6, use_rotary_positional_embeddings=True),
    "1.5-5b": TransformerConfig(
        **WIDTHS,
        sample_height=12,
        sample_width=12,
        patch_size_t=2,
        patch_bias=False,
        use_rotary_positional_embeddings=True,
    ),
}
IMAGE_TRANSFORMERS = {
    "5b-i2v": replace(TRANSFORMERS["5b"], in_channels=8, use_learned_positional_embeddings=True, sample_frames=17),
    "1.5-5b-i2v": replace(TRANSFORMERS["1.5-5b"], in_channels=8, ofs_embed_dim=16),
}
SCALING_FACTOR = {"2b": 1.15258426}  # 0.7 in other variants
SNR_SHIFT = {"2b": 3.0}  # 1.0 in other variants
SIZE = {"num_frames": 9, "height": 32, "width": 48}


def transformer(variant: str) -> TransformerConfig:
    return {**TRANSFORMERS, **IMAGE_TRANSFORMERS}[variant]


def vae_config(variant: str) -> VAEConfig:
    return VAEConfig(
        block_out_channels=(4, 8, 8, 8),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        sample_height=32,
        sample_width=48,
        scaling_factor=SCALING_FACTOR.get(variant, 0.7),
        invert_scale_latents=variant.startswith("1.5"),
    )


@lru_cache
def tokenizer() -> Tokenizer:
    return train_toy_tokenizer(CAPTIONS, vocab_size=128)


def text_config() -> T5Config:
    return T5Config(vocab_size=len(tokenizer()), d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)


def settings(variant: str = "2b") -> ModelSettings:
    return ModelSettings(
        fps=8.0,
        **SIZE,
        num_inference_steps=2,
        guidance_scale=6.0,
        dynamic_guidance=False,
        sampler="ddim",
        null_text="empty",
        text_length=TEXT_LENGTH,
        position_rule=transformer(variant).position_rule,
        norm_statistics="chunk",
        dtype="float32",
        trained=TrainedRange(num_frames=(1, 17), frame_step=4, height=(32, 64), width=(32, 64)),
        examples=("a red ball moves to the right on a blue floor",),
    )


def model(variant: str = "2b") -> LoadedModel:
    """Return newly initialized networks, with the same weights in every call."""
    torch.manual_seed(0)
    return LoadedModel(
        transformer=Transformer(transformer(variant)).eval(),
        vae=CausalVAE(vae_config(variant)).eval(),
        text_encoder=T5Encoder(text_config()).eval(),
        tokenizer=tokenizer(),
        schedule=Schedule(snr_shift_scale=SNR_SHIFT.get(variant, 1.0)),
        settings=settings(variant),
    )


def write(path: Path, variant: str = "2b") -> Path:
    """Write a tiny model as a model folder."""
    return model_folder.save(model(variant), path)
