"""Base model of the shipped model's training: a trained VAE and text encoder, and a transformer with initial weights,
whose text projection is whitened."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch

from cogvideox.diffusion.config import ScheduleConfig
from cogvideox.diffusion.schedule import Schedule
from cogvideox.pretrained import model_folder
from cogvideox.pretrained.components import load_network, load_vae
from cogvideox.pretrained.model_settings import ModelSettings, TrainedRange
from cogvideox.pretrained.model_spec import read_json
from cogvideox.text.config import T5Config
from cogvideox.text.tokenizer import Tokenizer
from cogvideox.toybox.captions.caption import STYLES, caption_scene
from cogvideox.toybox.scenes.sampler import sample_scene
from cogvideox.training.rng import torch_generator
from cogvideox.transformer.config import TransformerConfig
from cogvideox.transformer.init_weights import init_weights, whiten_text_projection
from cogvideox.transformer.model import Transformer

PROVENANCE = {"trained_on": "rendered clips of the toybox", "initial_weights": "whitened text projection"}
NUM_CAPTIONS = 500
"""Number of captions for the statistics of text embeddings."""


def write_base_model(
    out: str | Path,
    *,
    vae: str | Path,
    text_encoder: str | Path,
    transformer: TransformerConfig,
    schedule: ScheduleConfig,
    examples: tuple[str, ...],
    fps: float = 8.0,
) -> Path:
    """Write the model folder `out`.

    Args:
        vae: a folder with `vae/`.
        text_encoder: a folder with `text_encoder/` and `tokenizer/`.
        examples: example prompts of the model.

    Raises:
        UserError: a folder is missing or damaged, or `out` cannot be written.
    """
    trained_vae = load_vae(vae)
    text_folder = Path(text_encoder)
    config = T5Config.from_transformers(read_json(text_folder / "text_encoder/config.json"))
    encoder, tokenizer = load_network(text_folder, config), Tokenizer.from_folder(text_folder / "tokenizer")
    model, generator = Transformer(transformer), torch_generator("weights", 0)
    init_weights(model, generator)
    with torch.no_grad():
        embeddings = encoder(tokenizer.encode(list(_captions()), transformer.max_text_seq_length))
    whiten_text_projection(model, embeddings.flatten(0, 1), generator)
    frames = transformer.sample_frames
    height, width = (
        side * trained_vae.config.spatial_compression_ratio
        for side in (transformer.sample_height, transformer.sample_width)
    )
    settings = ModelSettings(
        fps=fps,
        height=height,
        width=width,
        num_frames=frames,
        num_inference_steps=25,
        guidance_scale=4.0,
        dynamic_guidance=False,
        sampler="ddim",
        null_text="empty",
        text_length=transformer.max_text_seq_length,
        position_rule=transformer.position_rule,
        norm_statistics="chunk",
        dtype="float32",
        trained=TrainedRange((1, frames), 4, (height, height), (width, width)),
        examples=examples,
        provenance=PROVENANCE,
    )
    loaded = model_folder.LoadedModel(
        transformer=model,
        vae=trained_vae,
        text_encoder=encoder,
        tokenizer=tokenizer,
        schedule=Schedule(**asdict(schedule)),
        settings=settings,
    )
    return model_folder.save(loaded, out)


def _captions() -> Iterator[str]:
    """Yield captions of training scenes in all styles."""
    styles = (*STYLES, "free")
    for seed in range(NUM_CAPTIONS):
        scene = sample_scene(seed, "pair", split="training")
        yield caption_scene(scene, styles[seed % len(styles)], seed)
