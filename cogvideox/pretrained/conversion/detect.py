"""What a path holds, in whichever form people have CogVideoX weights; names and shapes are read, values are not.

a diffusers folder       a whole model, or some parts of one, or one part alone
a SAT checkpoint         a folder with `latest`, or its `.pt`: the transformer, in full fine-tunes T5 and VAE too
a single file            .safetensors, .pt, .pth, .bin or .ckpt, under diffusers' names or SAT's
a LoRA                   said to be one, and left to `transformer.lora.io`
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cogvideox.errors import UserError
from cogvideox.formatting import abbreviate, pluralize
from cogvideox.pretrained.components import NetworkConfig, build_network
from cogvideox.pretrained.conversion import sat_layout
from cogvideox.pretrained.conversion.infer_config import (
    ComponentName,
    ConfigUnknown,
    Naming,
    classify_component,
    rules_for,
    text_config,
    transformer_config,
    unused_tensors,
    vae_config,
)
from cogvideox.pretrained.model_settings import Variant, variant_of
from cogvideox.pretrained.model_spec import INDEX_FILE, WEIGHT_STEMS, find_model, find_weights, read_json
from cogvideox.state_dict.keymap import Rule
from cogvideox.state_dict.lazy import LazyStateDict
from cogvideox.state_dict.strict_load import find_mismatches
from cogvideox.state_dict.torch_io import SUFFIXES, open_weights
from cogvideox.text.config import T5Config
from cogvideox.text.weights import merge_shared_embedding
from cogvideox.transformer.config import DIFFUSERS_CLASS, TransformerConfig
from cogvideox.transformer.lora.key_formats import guess_contents, parse_key
from cogvideox.transformer.lora.locate import find_lora_file
from cogvideox.vae.config import DIFFUSERS_CLASS as VAE_CLASS
from cogvideox.vae.config import VAEConfig

Kind = Literal["diffusers folder", "SAT checkpoint", "single file", "LoRA"]

CONFIG_KEY = "cogvideox.config"
"""Where a single file of ours keeps the configuration of its network, in the metadata: the JSON of diffusers."""

_ENDINGS = (".safetensors", ".safetensors.index.json", *SUFFIXES)
_READ = {
    "transformer": TransformerConfig.from_diffusers,
    "vae": VAEConfig.from_diffusers,
    "text_encoder": T5Config.from_transformers,
}


@dataclass(frozen=True)
class Component:
    """One network on the disk.

    naming: whose names its tensors have.
    state: the tensors, wrappers taken off their names; the token embedding, which has two in T5, under one.
    where: the file, for messages.
    config: None where the tensors do not tell it and nothing beside them does.
    told: whether the configuration is written down, and not recognised from the tensors.
    doubt: why there is no config; the end of a sentence about the part.
    """

    name: ComponentName
    naming: Naming
    state: LazyStateDict
    where: str
    config: NetworkConfig | None
    config_is_stated: bool = False
    config_problem: str = ""

    def rules(self, config: NetworkConfig) -> list[Rule]:
        """The keymap from the names of the file to ours."""
        return rules_for(self.naming, config)

    def mismatches(self, config: NetworkConfig) -> list[str]:
        """What keeps the tensors from being the network of that configuration; [] if nothing does."""
        try:
            return find_mismatches(self.state, build_network(config).state_dict(), rules=self.rules(config))
        except UserError as error:
            return [str(error)]


@dataclass(frozen=True)
class DetectedCheckpoint:
    """What was found at `path`.

    variant: the official model that the transformer is built like; None without a transformer, or where it is unclear.
    folder: the diffusers folder that also holds schedule and settings; None if there is none.
    tokenizer: the folder of the tokenizer.
    strangers: names of tensors that belong to no part.
    """

    path: Path
    kind: Kind
    parts: dict[ComponentName, Component] = field(default_factory=dict)
    folder: Path | None = None
    tokenizer: Path | None = None
    unknown_tensors: tuple[str, ...] = ()

    @property
    def variant(self) -> Variant | None:
        return _variant_of(self.parts)


def detect_checkpoint(path: str | Path, variant: Variant | None = None) -> DetectedCheckpoint:
    """Says what is at a path; shipped names and names on the Hugging Face hub are known too.

    Args:
        variant: decides where tensors alone do not: the scale of a lone VAE, the positions of a transformer that has
            the width of no official one.

    Raises:
        UserError: there is nothing, it is nothing of CogVideoX, or a file is damaged or would run code.
    """
    _, path = find_model(path)
    if not path.is_dir():
        return _file(path, variant)
    if (path / INDEX_FILE).is_file() or any((path / name / "config.json").is_file() for name in WEIGHT_STEMS):
        return _folder(path)
    if (path / "config.json").is_file():
        return _part_folder(path)
    if (found := sat_layout.find_files(path)) is not None:
        return _sat_folder(path, found, variant)
    if (usual := find_lora_file(path)) is not None:
        return _file(usual, variant)
    here = sorted(file for file in path.iterdir() if file.name.endswith(_ENDINGS) and file.is_file())
    indices = [file for file in here if file.name.endswith(".index.json")]
    if len(indices or here) == 1:
        return _file((indices or here)[0], variant)
    if here:
        raise UserError(f"which of the {len(here)} files in {path} is meant is unclear, give one of them")
    raise UserError(
        f"the folder {path} holds no model: neither {INDEX_FILE} nor config.json, no SAT checkpoint, no weights"
    )


def _file(path: Path, variant: Variant | None) -> DetectedCheckpoint:
    if not path.name.endswith(_ENDINGS):
        raise UserError(f"{path} is no file of weights: their names end in {', '.join(_ENDINGS)}")
    state = open_weights(path)
    if any(parse_key(name) is not None for name in state):
        return DetectedCheckpoint(path, "LoRA")
    parts, unknown_tensors = _sort(state, str(path), variant)
    if not parts:
        guess = f"; it seems to be {what}" if (what := guess_contents(state)) else ""
        names = f"{pluralize(list(state), 'tensor')} ({abbreviate(sorted(state))})"
        raise UserError(f"{path} is not CogVideoX: of its {names} none is known{guess}")
    is_checkpoint = any(part.naming == "SAT" for part in parts.values())
    kind: Kind = "SAT checkpoint" if is_checkpoint else "single file"
    return DetectedCheckpoint(path, kind, parts, unknown_tensors=tuple(unknown_tensors))


def _sat_folder(path: Path, found: sat_layout.SATFiles, variant: Variant | None) -> DetectedCheckpoint:
    identity = DetectedCheckpoint(path, "SAT checkpoint")
    if found.transformer is not None:
        identity = _file(found.transformer, variant)
        if identity.kind == "LoRA":
            return identity
    parts, unknown_tensors, text = dict(identity.parts), list(identity.unknown_tensors), found.text_encoder
    if found.vae is not None and "vae" not in parts:
        more, unknown = _sort(open_weights(found.vae), str(found.vae), variant or identity.variant)
        parts |= more
        unknown_tensors += unknown
    if text is not None and "text_encoder" not in parts:
        parts["text_encoder"] = _stated("text_encoder", text)
    tokenizer = _tokenizer(text)
    return DetectedCheckpoint(path, "SAT checkpoint", parts, None, tokenizer, tuple(unknown_tensors))


def _sort(
    state: LazyStateDict, where: str, variant: Variant | None
) -> tuple[dict[ComponentName, Component], list[str]]:
    """The parts in one state dict, and the names that belong to none."""
    parts: dict[ComponentName, Component] = {}
    unknown_tensors: list[str] = []
    groups = sat_layout.group_by_prefix(state)
    for _, names in sorted(groups.items(), key=lambda item: "diffusion_model" not in item[0]):
        part = classify_component(names)
        if part is None or part[0] in parts:
            unknown_tensors += [name for name in names.values() if not name.startswith(sat_layout.NO_WEIGHTS)]
            continue
        name, naming = part
        whole = state.select(names)
        if name == "text_encoder":
            whole = merge_shared_embedding(whole)
        unused = set(unused_tensors(whole, name, naming))
        own = whole.select({new: new for new in whole if new not in unused})
        parts[name] = _recognised(name, naming, own, whole.meta, where, variant or _variant_of(parts))
    return parts, unknown_tensors


def _recognised(
    name: ComponentName, naming: Naming, state: LazyStateDict, meta: Mapping, where: str, variant: Variant | None
) -> Component:
    """A part with the configuration that its file states or, where it does not, that its tensors tell."""
    if CONFIG_KEY in state.metadata:
        try:
            config = _READ[name](json.loads(state.metadata[CONFIG_KEY]))
        except ValueError as error:
            raise UserError(f"the configuration in {where} cannot be used: {error}") from error
        return Component(name, naming, state, where, config, config_is_stated=True)
    try:
        match name:
            case "transformer":
                config: NetworkConfig = transformer_config(meta, naming, variant)
            case "vae":
                config = vae_config(meta, naming, variant)
            case "text_encoder":
                config = text_config(meta)
    except ConfigUnknown as config_problem:
        return Component(name, naming, state, where, None, config_problem=str(config_problem))
    except (ValueError, IndexError, ZeroDivisionError):
        problem = "its tensors have shapes that no such network has"
        return Component(name, naming, state, where, None, config_problem=problem)
    return Component(name, naming, state, where, config)


def _variant_of(parts: Mapping[ComponentName, Component]) -> Variant | None:
    part = parts.get("transformer")
    return variant_of(part.config) if part is not None and isinstance(part.config, TransformerConfig) else None


def _folder(path: Path) -> DetectedCheckpoint:
    names: list[ComponentName] = ["transformer", "vae", "text_encoder"]
    parts = {name: _stated(name, path / name) for name in names if (path / name / "config.json").is_file()}
    return DetectedCheckpoint(path, "diffusers folder", parts, path, _tokenizer(path / "tokenizer"))


def _part_folder(path: Path) -> DetectedCheckpoint:
    """The folder of one part alone, as trainers leave it."""
    config = read_json(path / "config.json")
    kinds: dict[str, ComponentName] = {DIFFUSERS_CLASS: "transformer", VAE_CLASS: "vae", "t5": "text_encoder"}
    kind = str(config.get("_class_name", config.get("model_type")))
    if kind not in kinds:
        raise UserError(f"{path} is not CogVideoX: its config.json is of {kind}, not of {', '.join(kinds)}")
    name = kinds[kind]
    return DetectedCheckpoint(path, "diffusers folder", {name: _stated(name, path)}, tokenizer=_tokenizer(path))


def _stated(name: ComponentName, folder: Path) -> Component:
    """A part whose configuration lies beside it."""
    file = find_weights(folder, WEIGHT_STEMS[name])
    config = _READ[name](read_json(folder / "config.json"))
    state = open_weights(file)
    if name == "text_encoder":
        state = merge_shared_embedding(state)
    return Component(name, "diffusers", state, str(file), config, config_is_stated=True)


def _tokenizer(folder: Path | None) -> Path | None:
    has_one = folder is not None and any((folder / name).is_file() for name in ("tokenizer.json", "spiece.model"))
    return folder if has_one else None
