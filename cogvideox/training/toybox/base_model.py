"""Base model of the shipped model's training: a trained VAE and text encoder, and a transformer with initial
weights."""

from dataclasses import asdict
from pathlib import Path

from cogvideox.diffusion.config import ScheduleConfig
from cogvideox.diffusion.schedule import Schedule
from cogvideox.pretrained import model_folder
from cogvideox.pretrained.components import load_network, load_vae
from cogvideox.pretrained.model_settings import ModelSettings, TrainedRange
from cogvideox.pretrained.model_spec import read_json
from cogvideox.text.config import T5Config
from cogvideox.text.tokenizer import Tokenizer
from cogvideox.training.rng import torch_generator
from cogvideox.transformer.config import TransformerConfig
from cogvideox.transformer.init_weights import init_weights
from cogvideox.transformer.model import Transformer


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
    model = Transformer(transformer)
    init_weights(model, torch_generator("weights", 0))
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
        provenance={"trained_on": "rendered clips of the toybox"},
    )
    loaded = model_folder.LoadedModel(
        transformer=model,
        vae=trained_vae,
        text_encoder=load_network(text_folder, config),
        tokenizer=Tokenizer.from_folder(text_folder / "tokenizer"),
        schedule=Schedule(**asdict(schedule)),
        settings=settings,
    )
    return model_folder.save(loaded, out)
