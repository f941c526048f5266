"""Loading and saving of model folders in the diffusers layout."""

import json
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cogvideox.atomic_io import atomic_folder, cannot_write, write_text
from cogvideox.config import to_dict
from cogvideox.diffusion.config import SAMPLER_OF_SCHEDULER
from cogvideox.diffusion.schedule import Schedule
from cogvideox.errors import UserError
from cogvideox.formatting import abbreviate
from cogvideox.pretrained.components import Device, load_network, save_network
from cogvideox.pretrained.model_settings import ModelSettings
from cogvideox.pretrained.model_spec import (
    INDEX_FILE,
    SCHEDULER_FILE,
    SETTINGS_FILE,
    WEIGHT_STEMS,
    ModelSpec,
    model_index,
    read_json,
    read_spec,
)
from cogvideox.pretrained.offload.plan import Workload
from cogvideox.pretrained.offload.vae_cost import VAESlicing
from cogvideox.text.encoder import T5Encoder
from cogvideox.text.tokenizer import Tokenizer
from cogvideox.transformer.config import TransformerConfig
from cogvideox.transformer.model import Transformer
from cogvideox.vae.model import CausalVAE


@dataclass
class LoadedModel:
    """A model in memory. `load` returns its networks in evaluation mode and without gradients."""

    transformer: Transformer
    vae: CausalVAE
    text_encoder: T5Encoder
    tokenizer: Tokenizer
    schedule: Schedule
    settings: ModelSettings

    def activate(self, component: str) -> None:
        """Prepare a network for use. No-op for resident networks; `offload.placement` overrides it."""

    def vae_slicing(self, workload: Workload) -> VAESlicing:
        """Return the slicing of the VAE for a request; here always unsliced."""
        return VAESlicing()


def load(model: str | Path | ModelSpec, *, device: Device = "cpu", dtype: torch.dtype = torch.float32) -> LoadedModel:
    """Load a model from a shipped name, a folder, a Hugging Face Hub name, or a spec.

    Raises:
        UserError: the model does not exist, a file is missing or damaged, weights do not match their config, or
            components do not match each other.
    """
    spec = model if isinstance(model, ModelSpec) else read_spec(model)
    return LoadedModel(
        tokenizer=load_tokenizer(spec),
        text_encoder=load_network(spec.path, spec.text_encoder, device=device, dtype=dtype),
        transformer=load_network(spec.path, spec.transformer, device=device, dtype=dtype),
        vae=load_network(spec.path, spec.vae, device=device, dtype=dtype),
        schedule=Schedule(**asdict(spec.schedule)),
        settings=spec.settings,
    )


def load_tokenizer(spec: ModelSpec) -> Tokenizer:
    """Load the tokenizer of a model.

    Raises:
        UserError: the tokenizer is missing or damaged, or has more tokens than the text encoder.
    """
    tokenizer = Tokenizer.from_folder(spec.path / "tokenizer")
    if len(tokenizer) > spec.text_encoder.vocab_size:
        raise UserError(
            f"the components of {spec.path} do not match: the tokenizer has {len(tokenizer)} tokens, but the text "
            f"encoder has {spec.text_encoder.vocab_size}"
        )
    return tokenizer


def save(
    model: LoadedModel,
    path: str | Path,
    *,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int | None = 5 * 10**9,
) -> Path:
    """Write a model folder atomically, readable by `load` and `diffusers.CogVideoXPipeline.from_pretrained`.

    An existing model at `path` is replaced; a folder with other content is never overwritten.

    Args:
        dtype: dtype of the weights; None keeps the dtype of each tensor.
        max_shard_bytes: maximum size of a file, above which weights are split into shards; None for a single file.

    Raises:
        UserError: `path` exists and is not a model, or the folder cannot be written.
    """
    sampler = model.settings.sampler
    files = {
        SCHEDULER_FILE: model.schedule.to_diffusers(sampler),
        SETTINGS_FILE: to_dict(model.settings),
        INDEX_FILE: model_index(model.transformer.config, model.vae.config, sampler),
    }
    with atomic_model_folder(Path(path), [*WEIGHT_STEMS, "tokenizer", *files]) as folder:
        write_json_files(folder, files)
        model.tokenizer.save(folder / "tokenizer")
        for network in (model.transformer, model.vae, model.text_encoder):
            save_network(network.state_dict(), network.config, folder, dtype=dtype, max_shard_bytes=max_shard_bytes)
    return Path(path)


def save_with_transformer(
    spec: ModelSpec,
    path: str | Path,
    state: Mapping[str, Tensor],
    config: TransformerConfig,
    settings: ModelSettings,
    *,
    dtype: torch.dtype | None = None,
) -> Path:
    """Write a copy of the model folder `spec` with a new transformer, schedule and settings, atomically.

    The other components are copied as files. See `save` for arguments and errors.
    """
    sampler = SAMPLER_OF_SCHEDULER[read_json(spec.path / SCHEDULER_FILE)["_class_name"]]
    copied = ("vae", "text_encoder", "tokenizer")
    files = {
        SCHEDULER_FILE: spec.schedule.to_diffusers(sampler),
        SETTINGS_FILE: to_dict(settings),
        INDEX_FILE: model_index(config, spec.vae, sampler),
    }
    with atomic_model_folder(Path(path), ["transformer", *copied, *files]) as folder:
        write_json_files(folder, files)
        for name in copied:
            shutil.copytree(spec.path / name, folder / name)
        save_network(state, config, folder, dtype=dtype)
    return Path(path)


def write_json_files(folder: Path, files: dict[str, Any]) -> None:
    """Write JSON files, given as a dict from relative path to content. Creates parent folders."""
    for name, content in files.items():
        write_text(folder / name, json.dumps(content, indent=2) + "\n")


@contextmanager
def atomic_model_folder(path: Path, contents: Collection[str]) -> Iterator[Path]:
    """Yield a temporary folder to write to, and move it to `path` when the block succeeds: see `atomic_folder`.

    An existing model at `path` is replaced if its folder contains only components that the block writes. It is
    unchanged if the block fails.

    Args:
        contents: files and folders that the block will write, as paths relative to the folder.

    Raises:
        UserError: existing files at `path` would be lost, or it cannot be written.
    """
    target = path.resolve()  # follow symbolic links
    if target.exists():
        _check_replaceable(path, {name.partition("/")[0] for name in contents})
    try:
        with atomic_folder(target) as folder:
            yield folder
    except OSError as error:
        raise cannot_write(path, error) from error


def _check_replaceable(path: Path, names: Collection[str]) -> None:
    """Raise UserError unless `path` is empty or a model folder whose entries are all in `names`.

    SAT checkpoints have folders with the same names, but without `config.json`.
    """
    current = Path.cwd()
    if path.resolve() in (current, *current.parents):
        raise UserError(f"cannot write a model to {path}: it would replace the current folder; choose a different path")
    entries = sorted(entry.name for entry in path.iterdir()) if path.is_dir() else [path.name]
    is_model = (path / INDEX_FILE).is_file() or any((path / name / "config.json").is_file() for name in WEIGHT_STEMS)
    if entries and not is_model:
        raise UserError(f"cannot write a model to {path}: it is not empty and not a model; choose a different folder")
    if lost := [name for name in entries if name not in names]:
        raise UserError(
            f"cannot write a model to {path}: {abbreviate(lost)} in it would be lost; choose a different folder"
        )
