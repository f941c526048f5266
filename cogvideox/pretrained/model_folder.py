"""Loading of model folders, and saving in the layout that diffusers loads."""

import json
import secrets
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cogvideox.atomic_io import cannot_write, write_text
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
from cogvideox.pretrained.offload.vae_cost import VAEMemoryMode
from cogvideox.text.encoder import T5Encoder
from cogvideox.text.tokenizer import Tokenizer
from cogvideox.transformer.config import TransformerConfig
from cogvideox.transformer.model import Transformer
from cogvideox.vae.model import CausalVAE


@dataclass
class LoadedModel:
    """A model in memory. As `load` returns them, networks are in evaluation mode and without gradients."""

    transformer: Transformer
    vae: CausalVAE
    text_encoder: T5Encoder
    tokenizer: Tokenizer
    schedule: Schedule
    settings: ModelSettings

    def activate(self, component: str) -> None:
        """Prepare a network for use. Here all are resident; `offload.placement` loads and offloads them by a plan."""

    def vae_mode(self, workload: Workload) -> VAEMemoryMode:
        """How the VAE processes a request: here without slicing."""
        return VAEMemoryMode()


def load(model: str | Path | ModelSpec, *, device: Device = "cpu", dtype: torch.dtype = torch.float32) -> LoadedModel:
    """Load a model: a shipped name, a folder, a name on the Hugging Face Hub, or a spec.

    Raises:
        UserError: no such model; a missing or damaged file; weights that do not match their config; components that do
            not match each other.
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
        UserError: it is missing, damaged, or has more tokens than the text encoder.
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
    """Write a folder that `load` and `diffusers.CogVideoXPipeline.from_pretrained` read, atomically.

    A model at `path` is replaced; a folder with anything else in it is left alone.

    Args:
        dtype: dtype of the weights; None keeps that of each tensor.
        max_shard_bytes: larger weights are split into shards; None never splits.

    Raises:
        UserError: something other than a model is at `path`, or the folder cannot be written.
    """
    sampler = model.settings.sampler
    files = {
        SCHEDULER_FILE: model.schedule.to_diffusers(sampler),
        SETTINGS_FILE: to_dict(model.settings),
        INDEX_FILE: model_index(model.transformer.config, sampler),
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
    """Write a copy of the model folder `spec` with another transformer and other settings, atomically.

    The other components are copied as files. Arguments and errors are those of `save`.
    """
    sampler = SAMPLER_OF_SCHEDULER[read_json(spec.path / SCHEDULER_FILE)["_class_name"]]
    copied = ("vae", "text_encoder", "tokenizer", "scheduler")
    files = {SETTINGS_FILE: to_dict(settings), INDEX_FILE: model_index(config, sampler)}
    with atomic_model_folder(Path(path), ["transformer", *copied, *files]) as folder:
        write_json_files(folder, files)
        for name in copied:
            shutil.copytree(spec.path / name, folder / name)
        save_network(state, config, folder, dtype=dtype)
    return Path(path)


def write_json_files(folder: Path, files: dict[str, Any]) -> None:
    """Write JSON files, given as content by relative path, and their parent folders."""
    for name, content in files.items():
        write_text(folder / name, json.dumps(content, indent=2) + "\n")


@contextmanager
def atomic_model_folder(path: Path, contents: Collection[str]) -> Iterator[Path]:
    """Yield a temporary folder next to `path` to write to, and move it to `path` when the block succeeds.

    A model at `path` is replaced if all of its components are written and its folder contains nothing else. If the
    block fails, it stays as it was.

    Args:
        contents: files and folders that the block will write, as paths relative to the folder.

    Raises:
        UserError: something at `path` would be lost, or it cannot be written.
    """
    target = path.resolve()  # the target of a symbolic link
    if target.exists():
        _check_replaceable(path, {name.partition("/")[0] for name in contents})
    # Random names: after a crash, another process may have the same process id.
    new, old = (target.with_name(f".{target.name[:40]}.{secrets.token_hex(8)}.{end}") for end in ("new", "old"))
    try:
        new.mkdir(parents=True)
        yield new
        if target.exists():
            target.rename(old)
        new.rename(target)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
        elif old.exists():
            old.rename(target)


def _check_replaceable(path: Path, names: Collection[str]) -> None:
    """Raise UserError unless `path` is empty or a model folder of which all entries are in `names`.

    A SAT checkpoint has folders of the same names, but no `config.json` in them.
    """
    current = Path.cwd()
    if path.resolve() in (current, *current.parents):
        raise UserError(f"cannot write a model to {path}: it would replace the current folder; choose another")
    entries = sorted(entry.name for entry in path.iterdir()) if path.is_dir() else [path.name]
    is_model = (path / INDEX_FILE).is_file() or any((path / name / "config.json").is_file() for name in WEIGHT_STEMS)
    if entries and not is_model:
        raise UserError(f"cannot write a model to {path}: it is not empty and not a model; choose another folder")
    if lost := [name for name in entries if name not in names]:
        raise UserError(
            f"cannot write a model to {path}: {abbreviate(lost)} in it would be lost; choose another folder"
        )
