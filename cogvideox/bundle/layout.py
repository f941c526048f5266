"""Where things lie in a model folder, and what can be known without loading its weights. Imports no torch.

model_index.json    the diffusers class of every part
cogvideox.json      how the model wants to be used (`settings.py`); may be absent
transformer/  vae/  text_encoder/      config.json and safetensors, in one file or in shards
tokenizer/          tokenizer.json or spiece.model
scheduler/          scheduler_config.json
"""

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cogvideox import config
from cogvideox.bundle.settings import FolderSettings, official
from cogvideox.diffusion.config import SAMPLER_OF_SCHEDULER, ScheduleConfig
from cogvideox.errors import UserError
from cogvideox.text.config import T5Config
from cogvideox.transformer.config import TransformerConfig
from cogvideox.vae.config import VAEConfig

INDEX = "model_index.json"
SETTINGS = "cogvideox.json"
SCHEDULER = "scheduler/scheduler_config.json"

# The name of a part's weights, without the ending that says whether they are sharded.
WEIGHTS = {
    "transformer": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
}

_SHIPPED = Path(__file__).parent.parent / "models"


@dataclass(frozen=True)
class Description:
    """What a folder says of itself. `name` is a shipped model's name or the folder's absolute path."""

    name: str
    path: Path
    transformer: TransformerConfig
    vae: VAEConfig
    text: T5Config
    schedule: ScheduleConfig
    settings: FolderSettings


def shipped() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(index.parent.name for index in _SHIPPED.glob(f"*/{INDEX}"))


def find(model: str | Path) -> tuple[str, Path]:
    """The name and the folder of a model: a shipped name, or else a path. `./toybox` is always a path.

    Raises:
        UserError: no such model; the sentence lists the names.
    """
    names = shipped()
    if str(model) in names:
        return str(model), _SHIPPED / str(model)
    path = Path(model)
    with suppress(RuntimeError):  # the home of a user that does not exist
        path = path.expanduser()
    if (path / INDEX).is_file():
        return str(path.resolve()), path
    choices = f"give the path of a folder in the diffusers layout, or one of the names {', '.join(names) or '(none)'}"
    if path.is_dir():
        raise UserError(f"the folder {path} is not a model, because it holds no {INDEX}: {choices}")
    if str(model).count("/") == 1 and not path.is_absolute() and not path.parent.exists():
        raise UserError(f"there is no folder {model}, and names on the Hugging Face hub are not fetched: {choices}")
    raise UserError(f"there is no model {str(model)!r}: {choices}")


def describe(model: str | Path) -> Description:
    """Reads every configuration of a model and none of its weights.

    Raises:
        UserError: no such model, a missing file, a configuration that cannot be honoured, parts that do not fit.
    """
    name, path = find(model)
    transformer = TransformerConfig.from_diffusers(read_json(path / "transformer/config.json"))
    vae = VAEConfig.from_diffusers(read_json(path / "vae/config.json"))
    text = T5Config.from_transformers(read_json(path / "text_encoder/config.json"))
    scheduler = read_json(path / SCHEDULER)
    schedule = ScheduleConfig.from_diffusers(scheduler)
    settings = official(transformer, vae, SAMPLER_OF_SCHEDULER[scheduler["_class_name"]])
    if (path / SETTINGS).exists():
        stated = {**config.to_dict(settings), **read_json(path / SETTINGS)}
        settings = config.from_dict(FolderSettings, stated, where=str(path / SETTINGS))
    for what, one, other in (
        ("d_model of the text encoder", text.d_model, transformer.text_embed_dim),
        ("latent_channels of the VAE", vae.latent_channels, transformer.out_channels),
    ):
        if one != other:
            raise UserError(f"the parts of {path} do not fit: {what} is {one}, but the transformer's is {other}")
    return Description(name, path, transformer, vae, text, schedule, settings)


def weights_file(path: Path, part: str) -> Path:
    """The weights of a part: one safetensors file, or else the index of its shards.

    Raises:
        UserError: neither is there.
    """
    stem = path / part / WEIGHTS[part]
    for ending in (".safetensors", ".safetensors.index.json"):
        file = stem.with_name(stem.name + ending)
        if file.is_file():
            return file
    raise UserError(f"the model folder {path} is incomplete: {part}/{stem.name}.safetensors is missing")


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file of a model folder.

    Raises:
        UserError: the file is missing, unreadable or not a JSON object.
    """
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"the model folder is incomplete: {file} is missing") from None
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {file}: {error}") from error
    if not isinstance(data, dict):
        raise UserError(f"cannot read {file}: it holds a {type(data).__name__} where an object belongs")
    return data
