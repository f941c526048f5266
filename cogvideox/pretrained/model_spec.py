"""Configs and settings of a model folder, read without loading weights.

model_index.json    diffusers class of every component
cogvideox.json      sampling settings (`model_settings`); optional
transformer/  vae/  text_encoder/      config.json and safetensors, one file or shards
tokenizer/          tokenizer.json or spiece.model
scheduler/          scheduler_config.json
"""

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cogvideox import config
from cogvideox.diffusion.config import DIFFUSERS_CLASSES, SAMPLER_OF_SCHEDULER, Sampler, ScheduleConfig
from cogvideox.errors import UserError
from cogvideox.formatting import abbreviate
from cogvideox.pretrained.model_settings import ModelSettings, official_settings
from cogvideox.text.config import T5Config
from cogvideox.transformer.config import TransformerConfig
from cogvideox.untrusted.files import parse_json, read_text, reading
from cogvideox.vae.config import VAEConfig

INDEX_FILE = "model_index.json"
SETTINGS_FILE = "cogvideox.json"
SCHEDULER_FILE = "scheduler/scheduler_config.json"

NetworkConfig = TransformerConfig | VAEConfig | T5Config
ComponentName = Literal["transformer", "vae", "text_encoder"]

WEIGHT_STEMS: dict[ComponentName, str] = {
    "transformer": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
}
"""Weights file of each component, without the suffix (`.safetensors`, or `.safetensors.index.json` for shards)."""

_OLDER_STEMS: dict[ComponentName, tuple[str, ...]] = {"text_encoder": ("pytorch_model",)}
"""Other names of `.bin` files, because transformers renamed the file together with the format."""

_SHIPPED = Path(__file__).parent.parent / "models"


@dataclass(frozen=True)
class ModelSpec:
    """All configs and settings of a model folder. `name` is a shipped model name or the folder's absolute path."""

    name: str
    path: Path
    transformer: TransformerConfig
    vae: VAEConfig
    text_encoder: T5Config
    schedule: ScheduleConfig
    settings: ModelSettings

    @property
    def size_multiple(self) -> int:
        """Heights and widths must be multiples of this number: pixels per latent times latents per patch."""
        return self.vae.spatial_compression_ratio * self.transformer.patch_size


def shipped_models() -> list[str]:
    """List the names of the models shipped with this package."""
    return sorted(index.parent.name for index in _SHIPPED.glob(f"*/{INDEX_FILE}"))


def is_shipped(spec: ModelSpec) -> bool:
    """Return whether a model is shipped with this package."""
    return spec.path.parent == _SHIPPED


def find_model(model: str | Path) -> tuple[str, Path]:
    """Resolve a shipped name, a path, or a Hugging Face Hub name to a name and a path. Hub models are downloaded.

    `./toybox` is always interpreted as a path. The content at the path is not checked.

    Raises:
        UserError: there is no such model (the message lists the shipped names), or it cannot be downloaded.
    """
    names = shipped_models()
    if str(model) in names:
        return str(model), _SHIPPED / str(model)
    path = Path(model)
    with suppress(RuntimeError):  # "~name" for an unknown user
        path = path.expanduser()
    if str(model) and path.exists():
        return str(path.resolve()), path
    if str(model).count("/") == 1 and not path.is_absolute() and not path.parent.exists():
        from cogvideox.pretrained.hub import download

        return str(model), download(str(model))
    raise UserError(f"there is no model {str(model)!r}: {_choices()}")


def _choices() -> str:
    names = ", ".join(shipped_models()) or "none"
    return (
        f"pass the path of a folder in the diffusers layout, a shipped model ({names}), or a name on the Hugging Face "
        "Hub, such as zai-org/CogVideoX-2b"
    )


def read_spec(model: str | Path) -> ModelSpec:
    """Read all configs of a model (see `find_model`) and none of its weights.

    Raises:
        UserError: the model does not exist, a file is missing, a config is unsupported, or components do not match.
    """
    name, path = find_model(model)
    if not (path / INDEX_FILE).is_file():
        kind = "folder" if path.is_dir() else "file"
        raise UserError(
            f"the {kind} {path} is not a model folder, it has no {INDEX_FILE}: {_choices()}; "
            "`cogvideox inspect` shows its content, and `cogvideox convert` converts other formats to a model folder"
        )
    transformer = TransformerConfig.from_diffusers(read_json(path / "transformer/config.json"))
    vae = VAEConfig.from_diffusers(read_json(path / "vae/config.json"))
    text_encoder = T5Config.from_transformers(read_json(path / "text_encoder/config.json"))
    scheduler = read_json(path / SCHEDULER_FILE)
    schedule = ScheduleConfig.from_diffusers(scheduler)
    settings = official_settings(transformer, vae, SAMPLER_OF_SCHEDULER[scheduler["_class_name"]])
    if (path / SETTINGS_FILE).exists():
        stated = read_json(path / SETTINGS_FILE)
        merged = config.to_dict(settings)
        if "null_text" in stated:  # the default of training_null_text is then the same
            merged["training_null_text"] = None
        merged |= stated
        settings = config.from_dict(ModelSettings, merged, where=str(path / SETTINGS_FILE))
    check_compatible(transformer, vae, text_encoder, where=str(path))
    return ModelSpec(name, path, transformer, vae, text_encoder, schedule, settings)


def check_compatible(transformer: TransformerConfig, vae: VAEConfig, text_encoder: T5Config, *, where: str) -> None:
    """Check that the networks are compatible.

    Raises:
        UserError: the text encoder's width or the VAE's latent channels do not match the transformer, or the VAE is a
            variant.
    """
    vae.check_usable_by_transformers()
    for name, actual, expected in (
        ("d_model of the text encoder", text_encoder.d_model, transformer.text_embed_dim),
        ("latent_channels of the VAE", vae.latent_channels, transformer.out_channels),
    ):
        if actual != expected:
            raise UserError(
                f"the components of {where} do not match: {name} is {actual}, but the transformer expects {expected}"
            )


def model_index(transformer: TransformerConfig, vae: VAEConfig, sampler: Sampler) -> dict[str, Any]:
    """Return the content of `model_index.json`: library and class of every component."""
    return {
        "_class_name": "CogVideoXImageToVideoPipeline" if transformer.is_image_to_video else "CogVideoXPipeline",
        "_diffusers_version": "0.35.0",
        "scheduler": ["diffusers", DIFFUSERS_CLASSES[sampler]],
        "text_encoder": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "T5Tokenizer"],
        "transformer": ["diffusers", transformer.diffusers_class],
        "vae": ["diffusers", vae.diffusers_class],
    }


def component_config(config: NetworkConfig) -> dict[str, Any]:
    """Return the content of a component's `config.json`."""
    if isinstance(config, T5Config):
        # Without a dtype, transformers keeps the file's dtype, while diffusers loads the other components as float32.
        return {**config.to_transformers(), "dtype": "float32"}
    return config.to_diffusers()


def weights_file(folder: Path, component: ComponentName) -> Path:
    """Find the weights in a component's folder: a safetensors or PyTorch file, or the index of its shards.

    If these are missing and the folder has files of a single variant, such as `model.fp16.safetensors` (written by
    `save_pretrained(variant="fp16")`), these files are used.

    Raises:
        UserError: the folder contains no weights, or weights of several variants only.
    """
    stem = WEIGHT_STEMS[component]
    candidates = [
        (name, ending)
        for names, ending in (((stem,), "safetensors"), ((stem, *_OLDER_STEMS.get(component, ())), "bin"))
        for name in names
    ]
    for name, ending in candidates:
        for suffix in (f".{ending}", f".{ending}.index.json"):
            if (file := folder / f"{name}{suffix}").is_file():
                return file
    files = sorted(file.name for file in folder.glob("*") if file.is_file())
    for name, ending in candidates:
        # diffusers and transformers put the variant before the last suffix.
        pattern = rf"{name}\.(\w+\.{ending}|{ending}\.index\.\w+\.json)"
        variants = [file for file in files if re.fullmatch(pattern, file)]
        if len(variants) > 1:
            raise UserError(
                f"{folder} has weights of several variants ({abbreviate(variants)}): remove or rename all but one"
            )
        if variants:
            return folder / variants[0]
    others = [file for file in files if file.endswith((".safetensors", ".bin", ".index.json"))]
    note = f"; there is {abbreviate(others)}" if others else ""
    raise UserError(f"the model folder is incomplete: {folder / stem}.safetensors is missing{note}")


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON file of a model folder that contains one object.

    Raises:
        UserError: the file is missing, unreadable, or does not contain a JSON object.
    """
    if not file.exists():
        raise UserError(f"the model folder is incomplete: {file} is missing")
    with reading(file, "damaged or not JSON"):
        data = parse_json(read_text(file))
    if not isinstance(data, dict):
        raise UserError(f"cannot read {file}: it contains a {type(data).__name__} instead of a JSON object")
    return data
