"""Loading a model folder into networks, and writing networks as a folder that diffusers loads too."""

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from cogvideox import config
from cogvideox.bundle.layout import INDEX, SETTINGS, WEIGHTS, Description, describe, weights_file
from cogvideox.bundle.networks import Network, build, keymap_of
from cogvideox.bundle.settings import FolderSettings
from cogvideox.diffusion.config import DIFFUSERS_CLASSES
from cogvideox.diffusion.schedule import Schedule
from cogvideox.disk import cannot_write
from cogvideox.errors import UserError
from cogvideox.text import weights as text_weights
from cogvideox.text.encoder import T5Encoder
from cogvideox.text.tokenizer import Tokenizer
from cogvideox.transformer.model import Transformer
from cogvideox.vae.model import CausalVAE
from cogvideox.weights.files import open_state, save_state
from cogvideox.weights.keymap import to_theirs
from cogvideox.weights.strict import load_strict


@dataclass
class Bundle:
    """Everything a folder holds. As `load` gives them, the networks are in evaluation mode and take no gradient."""

    transformer: Transformer
    vae: CausalVAE
    text_encoder: T5Encoder
    tokenizer: Tokenizer
    schedule: Schedule
    settings: FolderSettings


def load(
    model: str | Path | Description,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Bundle:
    """Loads a model: a shipped name, a folder, or its description.

    Raises:
        UserError: no such model; a file that is missing, truncated or holds NaN; a tensor that is missing, unknown or
            of another shape; parts that do not fit each other.
    """
    about = model if isinstance(model, Description) else describe(model)
    path = about.path
    tokenizer = Tokenizer.from_folder(path / "tokenizer")
    if len(tokenizer) > about.text.vocab_size:
        num_ids = f"{len(tokenizer)} ids, but the text encoder embeds {about.text.vocab_size}"
        raise UserError(f"the parts of {path} do not fit: the tokenizer has {num_ids}")
    networks: dict[str, Any] = {
        "text_encoder": build(about.text),
        "transformer": build(about.transformer),
        "vae": build(about.vae),
    }
    for part, network in networks.items():
        file = weights_file(path, part)
        state = open_state(file)
        if part == "text_encoder":
            state = text_weights.one_embedding(state)
        load_strict(network, state, where=str(file), rules=keymap_of(network.config), dtype=dtype, device=device)
        network.eval().requires_grad_(False)
    return Bundle(**networks, tokenizer=tokenizer, schedule=Schedule(**asdict(about.schedule)), settings=about.settings)


def save(
    bundle: Bundle,
    path: str | Path,
    *,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int | None = 5 * 10**9,
) -> Path:
    """Writes a folder that `load` and `diffusers.CogVideoXPipeline.from_pretrained` read; whole or not at all.

    A model folder that is already at `path` is replaced; any other folder with something in it is left alone.

    Args:
        dtype: store weights in this type; None keeps each as it is.
        max_shard_bytes: larger weights are split into several files; None never splits.

    Raises:
        UserError: `path` is something else than a model folder, or cannot be written.
    """
    path = Path(path)
    if path.exists() and not (path / INDEX).is_file() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"cannot write a model to {path}: something else than a model is there")
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    try:
        new.mkdir(parents=True)
        _write(bundle, new, dtype, max_shard_bytes)
        if path.exists():
            path.rename(old)
        new.rename(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
        elif old.exists():
            old.rename(path)
    return path


def _write(bundle: Bundle, path: Path, dtype: torch.dtype | None, max_shard_bytes: int | None) -> None:
    networks: dict[str, Network] = {
        "transformer": bundle.transformer,
        "vae": bundle.vae,
        "text_encoder": bundle.text_encoder,
    }
    configs = {
        "transformer/config.json": bundle.transformer.config.to_diffusers(),
        "vae/config.json": bundle.vae.config.to_diffusers(),
        # Without a dtype, transformers takes the one of the file, while diffusers loads the other parts as float32.
        "text_encoder/config.json": {**bundle.text_encoder.config.to_transformers(), "dtype": "float32"},
        "scheduler/scheduler_config.json": bundle.schedule.to_diffusers(bundle.settings.sampler),
        SETTINGS: config.to_dict(bundle.settings),
        INDEX: _index(bundle),
    }
    for name, content in configs.items():
        file = path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    bundle.tokenizer.save(path / "tokenizer")
    for part, network in networks.items():
        state = to_theirs(network.state_dict(), keymap_of(network.config))
        state = {name: tensor.to(dtype) for name, tensor in state.items()} if dtype is not None else state
        save_state(state, path / part / f"{WEIGHTS[part]}.safetensors", max_shard_bytes=max_shard_bytes)


def _index(bundle: Bundle) -> dict[str, str | list[str]]:
    """`model_index.json`: which class of which library loads each part."""
    takes_image = bundle.transformer.config.in_channels != bundle.transformer.config.out_channels
    return {
        "_class_name": "CogVideoXImageToVideoPipeline" if takes_image else "CogVideoXPipeline",
        "_diffusers_version": "0.35.0",
        "scheduler": ["diffusers", DIFFUSERS_CLASSES[bundle.settings.sampler]],
        "text_encoder": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "T5Tokenizer"],
        "transformer": ["diffusers", "CogVideoXTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLCogVideoX"],
    }
