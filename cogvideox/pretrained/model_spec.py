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
from cogvideox.diffusion.config import DIFFUSERS_CLASSES, SAMPLER_OF_SCHEDULER, Sampler, ScheduleConfig
from cogvideox.errors import UserError
from cogvideox.pretrained.model_settings import ModelSettings, official_settings
from cogvideox.text.config import T5Config
from cogvideox.transformer.config import TransformerConfig
from cogvideox.vae.config import VAEConfig

INDEX_FILE = "model_index.json"
SETTINGS_FILE = "cogvideox.json"
SCHEDULER_FILE = "scheduler/scheduler_config.json"

# The name of a part's weights, without the ending that says whether they are sharded.
WEIGHT_STEMS = {
    "transformer": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
}

_SHIPPED = Path(__file__).parent.parent / "models"


@dataclass(frozen=True)
class ModelSpec:
    """What a folder says of itself. `name` is a shipped model's name or the folder's absolute path."""

    name: str
    path: Path
    transformer: TransformerConfig
    vae: VAEConfig
    text: T5Config
    schedule: ScheduleConfig
    settings: ModelSettings

    @property
    def size_multiple(self) -> int:
        """What heights and widths are multiples of: a latent's pixels times a patch's latents."""
        return self.vae.spatial_compression_ratio * self.transformer.patch_size


def shipped_models() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(index.parent.name for index in _SHIPPED.glob(f"*/{INDEX_FILE}"))


def find_model(model: str | Path) -> tuple[str, Path]:
    """The name and the place of a model: a shipped name, a path, or a name on the Hugging Face hub, which is fetched.

    `./toybox` is always a path. What is at a path is not looked at.

    Raises:
        UserError: no such model; the sentence lists the names. It cannot be fetched.
    """
    names = shipped_models()
    if str(model) in names:
        return str(model), _SHIPPED / str(model)
    path = Path(model)
    with suppress(RuntimeError):  # the home of a user that does not exist
        path = path.expanduser()
    if str(model) and path.exists():
        return str(path.resolve()), path
    if str(model).count("/") == 1 and not path.is_absolute() and not path.parent.exists():
        from cogvideox.pretrained.hub import download

        return str(model), download(str(model))
    raise UserError(f"there is no model {str(model)!r}: {_choices()}")


def _choices() -> str:
    known = ", ".join(shipped_models()) or "(none)"
    return (
        f"give the path of a folder in the diffusers layout, one of the names {known}, or one on the Hugging Face hub"
    )


def read_spec(model: str | Path) -> ModelSpec:
    """Reads every configuration of a model and none of its weights.

    Raises:
        UserError: no such model, a missing file, a configuration that cannot be honoured, parts that do not fit.
    """
    name, path = find_model(model)
    if not (path / INDEX_FILE).is_file():
        kind = "folder" if path.is_dir() else "file"
        raise UserError(
            f"the {kind} {path} is not a model, because it holds no {INDEX_FILE}: {_choices()}; "
            "`cogvideox inspect` says what it is, and `cogvideox convert` makes a model of weights in another form"
        )
    transformer = TransformerConfig.from_diffusers(read_json(path / "transformer/config.json"))
    vae = VAEConfig.from_diffusers(read_json(path / "vae/config.json"))
    text = T5Config.from_transformers(read_json(path / "text_encoder/config.json"))
    scheduler = read_json(path / SCHEDULER_FILE)
    schedule = ScheduleConfig.from_diffusers(scheduler)
    settings = official_settings(transformer, vae, SAMPLER_OF_SCHEDULER[scheduler["_class_name"]])
    if (path / SETTINGS_FILE).exists():
        stated = {**config.to_dict(settings), **read_json(path / SETTINGS_FILE)}
        settings = config.from_dict(ModelSettings, stated, where=str(path / SETTINGS_FILE))
    check_compatible(transformer, vae, text, where=str(path))
    return ModelSpec(name, path, transformer, vae, text, schedule, settings)


def check_compatible(transformer: TransformerConfig, vae: VAEConfig, text: T5Config, *, where: str) -> None:
    """Whether the networks can work together.

    Raises:
        UserError: what one gives is not what the other takes.
    """
    for what, one, other in (
        ("d_model of the text encoder", text.d_model, transformer.text_embed_dim),
        ("latent_channels of the VAE", vae.latent_channels, transformer.out_channels),
    ):
        if one != other:
            raise UserError(f"the parts of {where} do not fit: {what} is {one}, but the transformer's is {other}")


def model_index(transformer: TransformerConfig, sampler: Sampler) -> dict[str, Any]:
    """The content of `model_index.json`: which class of which library loads each part."""
    takes_image = transformer.in_channels != transformer.out_channels
    return {
        "_class_name": "CogVideoXImageToVideoPipeline" if takes_image else "CogVideoXPipeline",
        "_diffusers_version": "0.35.0",
        "scheduler": ["diffusers", DIFFUSERS_CLASSES[sampler]],
        "text_encoder": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "T5Tokenizer"],
        "transformer": ["diffusers", "CogVideoXTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLCogVideoX"],
    }


def component_config(config: TransformerConfig | VAEConfig | T5Config) -> dict[str, Any]:
    """The content of a part's `config.json`."""
    if isinstance(config, T5Config):
        # Without a dtype, transformers takes the one of the file, while diffusers loads the other parts as float32.
        return {**config.to_transformers(), "dtype": "float32"}
    return config.to_diffusers()


def weights_file(path: Path, part: str) -> Path:
    """The weights of a part: one safetensors file, the index of its shards, or else one file of PyTorch's own.

    Raises:
        UserError: neither is there.
    """
    return find_weights(path / part, WEIGHT_STEMS[part])


def find_weights(folder: Path, stem: str) -> Path:
    """The weights in the folder of a part, as `weights_file` finds them."""
    for ending in (".safetensors", ".safetensors.index.json", ".bin"):
        if (file := folder / (stem + ending)).is_file():
            return file
    raise UserError(f"the model folder is incomplete: {folder / stem}.safetensors is missing")


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
