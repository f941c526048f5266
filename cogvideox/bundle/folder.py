"""Loading a model folder into networks, and writing networks as a folder that diffusers loads too."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from cogvideox import config
from cogvideox.bundle.layout import (
    INDEX,
    SCHEDULER,
    SETTINGS,
    WEIGHTS,
    Description,
    describe,
    model_index,
    part_config,
    weights_file,
)
from cogvideox.bundle.memory import Demand
from cogvideox.bundle.networks import Network, build, keymap_of
from cogvideox.bundle.settings import FolderSettings
from cogvideox.bundle.vae_sizes import Decoding
from cogvideox.bundle.writing import writing_model
from cogvideox.diffusion.schedule import Schedule
from cogvideox.errors import UserError
from cogvideox.text import weights as text_weights
from cogvideox.text.encoder import T5Encoder
from cogvideox.text.tokenizer import Tokenizer
from cogvideox.transformer.model import Transformer
from cogvideox.vae.model import CausalVAE
from cogvideox.weights.outward import save_as_theirs
from cogvideox.weights.pickles import open_weights
from cogvideox.weights.stored import Stored, shapes
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

    def turn(self, part: str) -> None:
        """Told before a network is used. Here all are at hand; by a memory plan they come in turn (`placement`)."""

    def decoding(self, demand: Demand) -> Decoding:
        """How the VAE takes a request: here whole."""
        return Decoding()


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
    tokenizer = tokenizer_of(about)
    networks: dict[str, Any] = {
        "text_encoder": build(about.text),
        "transformer": build(about.transformer),
        "vae": build(about.vae),
    }
    for part, network in networks.items():
        state, file = open_part(about, part)
        load_strict(network, state, where=str(file), rules=keymap_of(network.config), dtype=dtype, device=device)
        network.eval().requires_grad_(False)
    return Bundle(**networks, tokenizer=tokenizer, schedule=Schedule(**asdict(about.schedule)), settings=about.settings)


def tokenizer_of(about: Description) -> Tokenizer:
    """The tokenizer of a model.

    Raises:
        UserError: it is missing, damaged or knows more tokens than the text encoder.
    """
    tokenizer = Tokenizer.from_folder(about.path / "tokenizer")
    if len(tokenizer) > about.text.vocab_size:
        num_ids = f"{len(tokenizer)} ids, but the text encoder embeds {about.text.vocab_size}"
        raise UserError(f"the parts of {about.path} do not fit: the tokenizer has {num_ids}")
    return tokenizer


def open_part(about: Description, part: str) -> tuple[Stored, Path]:
    """The weights of a network, still on the disk, and the file that they are in.

    Raises:
        UserError: the file is missing or damaged.
    """
    file = weights_file(about.path, part)
    state = open_weights(file)
    return (text_weights.one_embedding(state) if part == "text_encoder" else state), file


def save(
    bundle: Bundle,
    path: str | Path,
    *,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int | None = 5 * 10**9,
) -> Path:
    """Writes a folder that `load` and `diffusers.CogVideoXPipeline.from_pretrained` read; whole or not at all.

    A model that is already at `path` is replaced; a folder with anything else in it is left alone.

    Args:
        dtype: store weights in this type; None keeps each as it is.
        max_shard_bytes: larger weights are split into several files; None never splits.

    Raises:
        UserError: something else than a model is at `path`, or in the folder with it; it cannot be written.
    """
    networks: dict[str, Network] = {
        "transformer": bundle.transformer,
        "vae": bundle.vae,
        "text_encoder": bundle.text_encoder,
    }
    documents = {
        **{f"{part}/config.json": part_config(network.config) for part, network in networks.items()},
        SCHEDULER: bundle.schedule.to_diffusers(bundle.settings.sampler),
        SETTINGS: config.to_dict(bundle.settings),
        INDEX: model_index(bundle.transformer.config, bundle.settings.sampler),
    }
    with writing_model(Path(path), documents, ["tokenizer"]) as new:
        bundle.tokenizer.save(new / "tokenizer")
        for part, network in networks.items():
            state = network.state_dict()
            file = new / part / f"{WEIGHTS[part]}.safetensors"
            rules = keymap_of(network.config)
            save_as_theirs(
                shapes(state), state.items(), file, rules=rules, dtype=dtype, max_shard_bytes=max_shard_bytes
            )
    return Path(path)
