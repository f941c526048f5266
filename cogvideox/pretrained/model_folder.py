"""Loading a model folder into networks, and writing networks as a folder that diffusers loads too."""

import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from cogvideox import config
from cogvideox.atomic_io import cannot_write
from cogvideox.diffusion.schedule import Schedule
from cogvideox.errors import UserError
from cogvideox.formatting import abbreviate
from cogvideox.pretrained.components import Network, build_network, diffusers_keymap
from cogvideox.pretrained.model_settings import ModelSettings
from cogvideox.pretrained.model_spec import (
    INDEX_FILE,
    SCHEDULER_FILE,
    SETTINGS_FILE,
    WEIGHT_STEMS,
    ModelSpec,
    component_config,
    model_index,
    read_spec,
    weights_file,
)
from cogvideox.pretrained.offload.planner import Workload
from cogvideox.pretrained.offload.vae_cost import VAEMemoryMode
from cogvideox.state_dict.export import save_external
from cogvideox.state_dict.lazy import LazyStateDict, meta_tensors
from cogvideox.state_dict.strict_load import load_strict
from cogvideox.state_dict.torch_io import open_weights
from cogvideox.text import weights as text_weights
from cogvideox.text.encoder import T5Encoder
from cogvideox.text.tokenizer import Tokenizer
from cogvideox.transformer.model import Transformer
from cogvideox.vae.model import CausalVAE


@dataclass
class LoadedModel:
    """Everything a folder holds. As `load` gives them, the networks are in evaluation mode and take no gradient."""

    transformer: Transformer
    vae: CausalVAE
    text_encoder: T5Encoder
    tokenizer: Tokenizer
    schedule: Schedule
    settings: ModelSettings

    def activate(self, part: str) -> None:
        """Told before a network is used. Here all are at hand; by a memory plan they come in turn (`placement`)."""

    def vae_mode(self, demand: Workload) -> VAEMemoryMode:
        """How the VAE takes a request: here whole."""
        return VAEMemoryMode()


def load(
    model: str | Path | ModelSpec,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> LoadedModel:
    """Loads a model: a shipped name, a folder, or its description.

    Raises:
        UserError: no such model; a file that is missing, truncated or holds NaN; a tensor that is missing, unknown or
            of another shape; parts that do not fit each other.
    """
    spec = model if isinstance(model, ModelSpec) else read_spec(model)
    tokenizer = load_tokenizer(spec)
    networks: dict[str, Any] = {
        "text_encoder": build_network(spec.text),
        "transformer": build_network(spec.transformer),
        "vae": build_network(spec.vae),
    }
    for part, network in networks.items():
        state, file = open_component(spec, part)
        load_strict(network, state, where=str(file), rules=diffusers_keymap(network.config), dtype=dtype, device=device)
        network.eval().requires_grad_(False)
    return LoadedModel(
        **networks, tokenizer=tokenizer, schedule=Schedule(**asdict(spec.schedule)), settings=spec.settings
    )


def load_tokenizer(spec: ModelSpec) -> Tokenizer:
    """The tokenizer of a model.

    Raises:
        UserError: it is missing, damaged or knows more tokens than the text encoder.
    """
    tokenizer = Tokenizer.from_folder(spec.path / "tokenizer")
    if len(tokenizer) > spec.text.vocab_size:
        num_ids = f"{len(tokenizer)} ids, but the text encoder embeds {spec.text.vocab_size}"
        raise UserError(f"the parts of {spec.path} do not fit: the tokenizer has {num_ids}")
    return tokenizer


def open_component(spec: ModelSpec, part: str) -> tuple[LazyStateDict, Path]:
    """The weights of a network, still on the disk, and the file that they are in.

    Raises:
        UserError: the file is missing or damaged.
    """
    file = weights_file(spec.path, part)
    state = open_weights(file)
    return (text_weights.merge_shared_embedding(state) if part == "text_encoder" else state), file


def save(
    bundle: LoadedModel,
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
        **{f"{part}/config.json": component_config(network.config) for part, network in networks.items()},
        SCHEDULER_FILE: bundle.schedule.to_diffusers(bundle.settings.sampler),
        SETTINGS_FILE: config.to_dict(bundle.settings),
        INDEX_FILE: model_index(bundle.transformer.config, bundle.settings.sampler),
    }
    with atomic_model_folder(Path(path), documents, ["tokenizer"]) as new:
        bundle.tokenizer.save(new / "tokenizer")
        for part, network in networks.items():
            state = network.state_dict()
            file = new / part / f"{WEIGHT_STEMS[part]}.safetensors"
            rules = diffusers_keymap(network.config)
            save_external(
                meta_tensors(state), state.items(), file, rules=rules, dtype=dtype, max_shard_bytes=max_shard_bytes
            )
    return Path(path)


@contextmanager
def atomic_model_folder(path: Path, documents: Mapping[str, Any], others: Collection[str] = ()) -> Iterator[Path]:
    """Gives a folder beside `path` to write weights to, which becomes `path` when the block ends well.

    A model that is already there is replaced, if all of its parts are written anew and nothing else is in its folder;
    when the block fails in any way, it is still there, untouched.

    Args:
        documents: content of each JSON file, such as `vae/config.json`: these are in the folder already.
        others: what beside their folders will be written, such as `tokenizer`.

    Raises:
        UserError: something at `path` would be lost, or it cannot be written.
    """
    names = {name.partition("/")[0] for name in documents} | {*others}
    place = path.resolve()  # of a link, what it leads to
    if place.exists():
        _check_may_go(path, names)
    new = place.with_name(f".{place.name}.{os.getpid()}.new")
    old = place.with_name(f".{place.name}.{os.getpid()}.old")
    try:
        new.mkdir(parents=True)
        for name, content in documents.items():
            (new / name).parent.mkdir(exist_ok=True)
            (new / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        yield new
        if place.exists():
            place.rename(old)
        new.rename(place)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
        if place.exists():
            shutil.rmtree(old, ignore_errors=True)
        elif old.exists():
            old.rename(place)


def _check_may_go(path: Path, names: Collection[str]) -> None:
    """Whether what is there is nothing, or a model (not one of SAT, which has folders of the same names) of which these
    are all."""
    here = Path.cwd()
    if path.resolve() in (here, *here.parents):
        raise UserError(f"cannot write a model to {path}: it would replace the folder that this runs in; give another")
    there = sorted(entry.name for entry in path.iterdir()) if path.is_dir() else [path.name]
    is_model = (path / INDEX_FILE).is_file() or any((path / part / "config.json").is_file() for part in WEIGHT_STEMS)
    if there and not is_model:
        raise UserError(f"cannot write a model to {path}: something else than a model is there")
    if lost := [name for name in there if name not in names]:
        raise UserError(f"cannot write a model to {path}: {abbreviate(lost)} in it would be lost; give another folder")
