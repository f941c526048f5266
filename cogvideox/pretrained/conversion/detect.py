"""Detection of the format and components of CogVideoX weights from names and shapes, without reading values.

diffusers folder       a complete model, some of its components, or a single component
SAT checkpoint         a folder with `latest`, or its `.pt`: the transformer; after full fine-tuning also T5 and VAE
single file            .safetensors, .pt, .pth, .bin or .ckpt, with diffusers' or SAT's names
LoRA                   only detected here; read by `transformer.lora.io`
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from cogvideox.errors import UserError
from cogvideox.formatting import abbreviate, pluralize
from cogvideox.pretrained.components import build_network, open_component
from cogvideox.pretrained.conversion import sat_layout
from cogvideox.pretrained.conversion.infer_config import (
    ConfigUnknown,
    Naming,
    classify_component,
    keymap_for,
    text_config,
    transformer_config,
    unused_tensors,
    vae_config,
)
from cogvideox.pretrained.detect_variant import Variant, variant_of
from cogvideox.pretrained.model_spec import (
    INDEX_FILE,
    WEIGHT_STEMS,
    ComponentName,
    NetworkConfig,
    find_model,
    read_json,
)
from cogvideox.state_dict.key_rules import Rule
from cogvideox.state_dict.lazy import LazyStateDict
from cogvideox.state_dict.strict_load import find_mismatches
from cogvideox.state_dict.torch_io import SUFFIXES, open_weights
from cogvideox.text.checkpoint_keys import merge_shared_embedding
from cogvideox.text.config import T5Config
from cogvideox.transformer.config import DIFFUSERS_CLASS, TransformerConfig
from cogvideox.transformer.lora.key_formats import guess_contents, parse_key
from cogvideox.transformer.lora.locate import find_lora_file
from cogvideox.untrusted.files import parse_json
from cogvideox.vae.config import DIFFUSERS_CLASS as VAE_CLASS
from cogvideox.vae.config import VAEConfig

Format = Literal["diffusers folder", "SAT checkpoint", "single file", "LoRA"]

CONFIG_KEY = "cogvideox.config"
"""Metadata key of the network's config (diffusers' JSON) in single files written by this package."""

_SUFFIXES = (".safetensors", ".safetensors.index.json", *SUFFIXES)


@dataclass(frozen=True)
class Component:
    """One network on disk.

    Attributes:
        naming: code base whose tensor names the file uses.
        state: the tensors without name prefixes. The token embedding, stored twice in T5 files, is included once.
        where: path of the file, for messages.
        config: config from a file or from the shapes of the tensors; None if unknown.
        config_is_stated: whether the config was read from a file instead of inferred from tensors.
        config_problem: reason why there is no config, phrased as the end of a sentence about the component.
    """

    name: ComponentName
    naming: Naming
    state: LazyStateDict
    where: str
    config: NetworkConfig | None
    config_is_stated: bool = False
    config_problem: str = ""

    def rules(self, config: NetworkConfig) -> list[Rule]:
        """Return the rules between the names in the file and the names of the network."""
        return keymap_for(self.naming, config)

    def mismatches(self, config: NetworkConfig) -> list[str]:
        """List the differences between the tensors and the network of a config; empty if they match."""
        try:
            return find_mismatches(self.state, build_network(config).state_dict(), rules=self.rules(config))
        except UserError as error:
            return [str(error)]


@dataclass(frozen=True)
class DetectedCheckpoint:
    """Result of detecting the checkpoint at `path`.

    Attributes:
        folder: diffusers folder with schedule and settings; None for other formats.
        tokenizer: tokenizer folder.
        unknown_tensors: names of tensors that belong to no component.
    """

    path: Path
    format: Format
    components: dict[ComponentName, Component] = field(default_factory=dict)
    folder: Path | None = None
    tokenizer: Path | None = None
    unknown_tensors: tuple[str, ...] = ()

    @property
    def variant(self) -> Variant | None:
        """Official model with the transformer's architecture; None without a transformer or its config."""
        return _variant(self.components)


def detect_checkpoint(path: str | Path, variant: Variant | None = None) -> DetectedCheckpoint:
    """Detect the format and components of weights, given by a path, a shipped name, or a Hugging Face Hub name.

    Args:
        variant: resolves ambiguities: the scaling factor of a VAE without config, and the position embedding of a
            transformer whose width is not official.

    Raises:
        UserError: the path does not exist, is not a CogVideoX checkpoint, is damaged, or would execute code.
    """
    _, path = find_model(path)
    if not path.is_dir():
        return _detect_file(path, variant)
    if (path / INDEX_FILE).is_file() or any((path / name / "config.json").is_file() for name in WEIGHT_STEMS):
        return _detect_model_folder(path)
    if (path / "config.json").is_file():
        return _detect_component_folder(path)
    if (sat_files := sat_layout.find_files(path)) is not None:
        return _detect_sat_folder(path, sat_files, variant)
    if (lora := find_lora_file(path)) is not None:
        return _detect_file(lora, variant)
    files = sorted(file for file in path.iterdir() if file.name.endswith(_SUFFIXES) and file.is_file())
    indices = [file for file in files if file.name.endswith(".index.json")]
    if len(indices or files) == 1:
        return _detect_file((indices or files)[0], variant)
    if files:
        raise UserError(f"{path} contains {len(files)} weights files: pass the path of one of them")
    raise UserError(f"{path} contains no model: no {INDEX_FILE}, no config.json, no SAT checkpoint, no weights file")


def _detect_file(path: Path, variant: Variant | None) -> DetectedCheckpoint:
    if not path.name.endswith(_SUFFIXES):
        raise UserError(f"{path} is not a weights file: its name must end in {', '.join(_SUFFIXES)}")
    state = open_weights(path)
    if any(parse_key(name) is not None for name in state):
        return DetectedCheckpoint(path, "LoRA")
    components, unknown = _split_components(state, str(path), variant)
    if not components:
        guess = f"; it seems to be {contents}" if (contents := guess_contents(state)) else ""
        names = f"{pluralize(list(state), 'tensor')} ({abbreviate(sorted(state))})"
        raise UserError(f"{path} is not CogVideoX: no network has its {names}{guess}")
    is_sat = any(component.naming == "SAT" for component in components.values())
    return DetectedCheckpoint(
        path, "SAT checkpoint" if is_sat else "single file", components, unknown_tensors=tuple(unknown)
    )


def _detect_model_folder(path: Path) -> DetectedCheckpoint:
    components = {
        name: _read_component(name, path / name) for name in WEIGHT_STEMS if (path / name / "config.json").is_file()
    }
    return DetectedCheckpoint(path, "diffusers folder", components, path, _tokenizer_in(path / "tokenizer"))


def _detect_component_folder(path: Path) -> DetectedCheckpoint:
    """Detect the folder of a single component, as saved by training scripts."""
    config = read_json(path / "config.json")
    classes: dict[str, ComponentName] = {DIFFUSERS_CLASS: "transformer", VAE_CLASS: "vae", "t5": "text_encoder"}
    class_name = str(config.get("_class_name", config.get("model_type"))).replace("Variant", "")
    if class_name not in classes:
        raise UserError(f"{path} is not CogVideoX: its config.json is for {class_name}, not for {', '.join(classes)}")
    name = classes[class_name]
    components = {name: _read_component(name, path)}
    return DetectedCheckpoint(path, "diffusers folder", components, tokenizer=_tokenizer_in(path))


def _detect_sat_folder(path: Path, files: sat_layout.SATFiles, variant: Variant | None) -> DetectedCheckpoint:
    detected = DetectedCheckpoint(path, "SAT checkpoint")
    if files.transformer is not None:
        detected = _detect_file(files.transformer, variant)
        if detected.format == "LoRA":
            return detected
    components, unknown = dict(detected.components), list(detected.unknown_tensors)
    if files.vae is not None and "vae" not in components:
        vae_components, vae_unknown = _split_components(
            open_weights(files.vae), str(files.vae), variant or detected.variant
        )
        components |= vae_components
        unknown += vae_unknown
    if files.text_encoder is not None and "text_encoder" not in components:
        components["text_encoder"] = _read_component("text_encoder", files.text_encoder)
    tokenizer = _tokenizer_in(files.text_encoder)
    return DetectedCheckpoint(path, "SAT checkpoint", components, None, tokenizer, tuple(unknown))


def _split_components(
    state: LazyStateDict, where: str, variant: Variant | None
) -> tuple[dict[ComponentName, Component], list[str]]:
    """Split a state dict into components, and list the names of tensors that belong to none."""
    components: dict[ComponentName, Component] = {}
    unknown: list[str] = []
    groups = sat_layout.group_by_prefix(state)
    # The transformer comes first, because the VAE's config depends on its variant.
    for _, names in sorted(groups.items(), key=lambda item: "diffusion_model" not in item[0]):
        classified = classify_component(names)
        if classified is None or classified[0] in components:
            unknown += [name for name in names.values() if not name.startswith(sat_layout.NO_WEIGHTS)]
            continue
        name, naming = classified
        tensors = state.select(names)
        if name == "text_encoder":
            tensors = merge_shared_embedding(tensors)
        unused = set(unused_tensors(tensors.meta, name, naming))
        weights = tensors.select({key: key for key in tensors if key not in unused})
        components[name] = _infer_component(name, naming, weights, tensors.meta, where, variant or _variant(components))
    return components, unknown


def _infer_component(
    name: ComponentName,
    naming: Naming,
    state: LazyStateDict,
    meta: Mapping[str, Tensor],
    where: str,
    variant: Variant | None,
) -> Component:
    """Return a component of a single file, with the config from the file's metadata or inferred from its tensors."""
    if CONFIG_KEY in state.metadata:
        try:
            config = _parse_config(name, parse_json(state.metadata[CONFIG_KEY]))
        except ValueError as error:
            raise UserError(f"the config in {where} cannot be used: {error}") from error
        return Component(name, naming, state, where, config, config_is_stated=True)
    try:
        match name:
            case "transformer":
                config = transformer_config(meta, naming, variant)
            case "vae":
                config = vae_config(meta, naming, variant)
            case "text_encoder":
                config = text_config(meta)
    except ConfigUnknown as reason:
        return Component(name, naming, state, where, None, config_problem=str(reason))
    except (ValueError, IndexError, ZeroDivisionError):
        return Component(
            name, naming, state, where, None, config_problem="no network of this type has tensors of these shapes"
        )
    return Component(name, naming, state, where, config)


def _read_component(name: ComponentName, folder: Path) -> Component:
    """Read a component that has a `config.json`."""
    state, file = open_component(folder, name)
    config = _parse_config(name, read_json(folder / "config.json"))
    return Component(name, "diffusers", state, str(file), config, config_is_stated=True)


def _parse_config(name: ComponentName, content: dict[str, Any]) -> NetworkConfig:
    match name:
        case "transformer":
            return TransformerConfig.from_diffusers(content)
        case "vae":
            return VAEConfig.from_diffusers(content)
        case "text_encoder":
            return T5Config.from_transformers(content)


def _variant(components: Mapping[ComponentName, Component]) -> Variant | None:
    transformer = components.get("transformer")
    config = None if transformer is None else transformer.config
    return variant_of(config) if isinstance(config, TransformerConfig) else None


def _tokenizer_in(folder: Path | None) -> Path | None:
    names = ("tokenizer.json", "spiece.model")
    return folder if folder is not None and any((folder / name).is_file() for name in names) else None
