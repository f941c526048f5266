"""Conversion of weights in any format supported by `detect` to a diffusers folder or a safetensors file.

`plan_conversion` chooses the components to write and checks names and shapes; `ConversionPlan.write_folder` and
`write_file` convert one tensor at a time, so memory use does not depend on the size of the model (a LoRA is loaded as a
whole). Missing components, such as the tokenizer or the text encoder, are copied from a base model if one is given.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cogvideox.diffusion.config import PRESETS as SCHEDULES
from cogvideox.diffusion.config import SAMPLER_OF_SCHEDULER, ScheduleConfig
from cogvideox.errors import UserError
from cogvideox.formatting import abbreviate, pluralize
from cogvideox.pretrained.components import build_network, diffusers_keymap
from cogvideox.pretrained.conversion.detect import CONFIG_KEY, Component, DetectedCheckpoint, detect_checkpoint
from cogvideox.pretrained.conversion.infer_config import VARIANTS
from cogvideox.pretrained.detect_variant import Variant, variant_of
from cogvideox.pretrained.model_folder import atomic_model_folder, write_json_files
from cogvideox.pretrained.model_spec import (
    INDEX_FILE,
    SCHEDULER_FILE,
    SETTINGS_FILE,
    WEIGHT_STEMS,
    ComponentName,
    NetworkConfig,
    check_compatible,
    component_config,
    model_index,
    read_json,
)
from cogvideox.state_dict.export import external_meta, save_external
from cogvideox.state_dict.key_rules import to_internal
from cogvideox.state_dict.strict_load import check_matches, convert_tensors
from cogvideox.text.config import T5Config
from cogvideox.transformer.config import TransformerConfig
from cogvideox.transformer.lora.inject import LoRA
from cogvideox.transformer.lora.io import read_lora, write_lora
from cogvideox.vae.config import PRESETS as VAES
from cogvideox.vae.config import VAEConfig

_TOKENIZER_FILES = (
    "tokenizer.json",
    "spiece.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)


@dataclass(frozen=True)
class PlannedComponent:
    """A network to write: the source of its tensors, its config, and the dtype in the output file."""

    source: Component
    config: NetworkConfig
    dtype: torch.dtype | None

    @cached_property
    def meta(self) -> dict[str, Tensor]:
        """Tensors of the network before casting, on the meta device."""
        return to_internal(self.source.state.meta, self.source.rules(self.config))

    @property
    def num_bytes(self) -> int:
        """Size of the weights in the output file, in bytes."""
        written = external_meta(self.meta, diffusers_keymap(self.config), self.dtype)
        return sum(tensor.nbytes for tensor in written.values())

    @property
    def num_parameters(self) -> int:
        """Number of parameters."""
        return sum(tensor.numel() for tensor in self.meta.values())

    def check(self) -> None:
        """Raise UserError if the tensors do not match the config."""
        expected = build_network(self.config).state_dict()
        check_matches(self.source.state, expected, where=self.source.where, rules=self.source.rules(self.config))

    def write(self, file: Path, metadata: Mapping[str, str] | None = None, max_shard_bytes: int | None = None) -> None:
        """Write the weights with diffusers' names. See `state_dict.export.save_external` for arguments and errors."""
        tensors = convert_tensors(
            self.source.state,
            self.meta,
            where=self.source.where,
            rules=self.source.rules(self.config),
            dtype=self.dtype,
            keep=False,
        )
        save_external(
            self.meta,
            tensors,
            file,
            rules=diffusers_keymap(self.config),
            dtype=self.dtype,
            metadata=metadata,
            max_shard_bytes=max_shard_bytes,
        )


@dataclass(frozen=True)
class ConversionPlan:
    """Plan of a conversion, with names and shapes already checked. Values are checked while writing.

    Attributes:
        source: the detected checkpoint.
        components: networks to write.
        tokenizer: tokenizer folder to copy.
        schedule: content of `scheduler_config.json`.
        settings: content of `cogvideox.json`, if the source or the base has one.
        notes: messages for the user, one sentence each.
    """

    source: DetectedCheckpoint
    components: dict[ComponentName, PlannedComponent]
    tokenizer: Path | None
    schedule: dict[str, Any] | None
    settings: dict[str, Any] | None
    notes: list[str] = field(default_factory=list)

    @property
    def num_bytes(self) -> int:
        """Total size of the weights to write, in bytes."""
        return sum(component.num_bytes for component in self.components.values())

    @property
    def missing(self) -> list[str]:
        """Parts of a complete model that are missing from the plan."""
        missing: list[str] = [name for name in WEIGHT_STEMS if name not in self.components]
        missing += ["tokenizer"] if self.tokenizer is None else []
        return missing + (["scheduler"] if self.schedule is None else [])

    def write_folder(self, target: str | Path, *, max_shard_bytes: int | None = 5 * 10**9) -> Path:
        """Write a diffusers folder with the planned components, atomically.

        Raises:
            UserError: existing files at `target` would be lost, it cannot be written, or a tensor contains NaN or
                infinity.
        """
        files: dict[str, Any] = {
            f"{name}/config.json": component_config(component.config) for name, component in self.components.items()
        }
        if self.schedule is not None:
            files[SCHEDULER_FILE] = self.schedule
        if self.settings is not None:
            files[SETTINGS_FILE] = self.settings
        if self.schedule is not None and not self.missing:
            transformer, vae = self.components["transformer"].config, self.components["vae"].config
            assert isinstance(transformer, TransformerConfig)
            assert isinstance(vae, VAEConfig)
            files[INDEX_FILE] = model_index(transformer, vae, SAMPLER_OF_SCHEDULER[self.schedule["_class_name"]])
        tokenizer_files = [] if self.tokenizer is None else [self.tokenizer / name for name in _TOKENIZER_FILES]
        with atomic_model_folder(Path(target), [*files, *(["tokenizer"] if self.tokenizer else [])]) as folder:
            write_json_files(folder, files)
            for file in tokenizer_files:
                if file.is_file():
                    (folder / "tokenizer").mkdir(exist_ok=True)
                    shutil.copyfile(file, folder / "tokenizer" / file.name)
            for name, component in self.components.items():
                component.write(folder / name / f"{WEIGHT_STEMS[name]}.safetensors", max_shard_bytes=max_shard_bytes)
        return Path(target)

    def write_file(self, target: str | Path, component: ComponentName | None = None) -> Path:
        """Write one network as a safetensors file with its config in the metadata, atomically.

        Args:
            component: network to write; defaults to the first one of the source (transformer, VAE, text encoder).

        Raises:
            UserError: there is no such component, the file cannot be written, or a tensor contains NaN or infinity.
        """
        target = Path(target)
        if target.suffix != ".safetensors":
            raise UserError(f"cannot write {target}: the name of a single file must end in .safetensors")
        chosen = self.components[self.choose(component)]
        chosen.write(target, metadata={CONFIG_KEY: json.dumps(component_config(chosen.config))})
        return target

    def choose(self, component: ComponentName | None = None) -> ComponentName:
        """Return the component that `write_file` writes. Raises UserError if there is no such component."""
        in_source = [name for name in self.components if name in self.source.components]
        name = component or (in_source or [*self.components])[0]
        if name not in self.components:
            raise UserError(f"{self.source.path} has no {name}; it has {', '.join(self.components)}")
        return name


def plan_conversion(
    source: str | Path | DetectedCheckpoint,
    *,
    base: str | Path | None = None,
    variant: str | None = None,
    dtype: torch.dtype | None = None,
) -> ConversionPlan:
    """Plan the conversion of `source`, and check names and shapes.

    Args:
        source: a path or model name, or the result of `detect_checkpoint` with the same variant.
        base: model that provides components missing from the source, and configs that cannot be inferred from tensors.
        variant: resolves ambiguous configs if there is no base (see `detect_checkpoint`).
        dtype: dtype of the weights; None keeps the dtype of each tensor.

    Raises:
        UserError: see `detect_checkpoint`; also if the source is a LoRA or has no components, weights do not match
            their config, a config is unknown, or the transformer is of a different variant.
    """
    requested = next((known for known in VARIANTS if known == variant), None)
    if variant is not None and requested is None:
        raise UserError(f"there is no variant {variant!r}; the variants are {', '.join(VARIANTS)}")
    detected = source if isinstance(source, DetectedCheckpoint) else detect_checkpoint(source, requested)
    if detected.format == "LoRA":
        raise UserError(f"{detected.path} is a LoRA, not a model; use `convert_lora`")
    base_model = None if base is None else detect_checkpoint(base, requested)
    if base_model is not None and base_model.format == "LoRA":
        raise UserError(f"the base {base_model.path} is a LoRA, not a model")
    base_components = {} if base_model is None else base_model.components

    notes = []
    if unknown := detected.unknown_tensors:
        notes.append(f"ignored {pluralize(unknown, 'tensor')} of no component ({abbreviate(unknown)})")
    components: dict[ComponentName, PlannedComponent] = {}
    for name in WEIGHT_STEMS:
        component = detected.components.get(name) or base_components.get(name)
        if component is not None:
            components[name] = PlannedComponent(component, _config(component, base_components.get(name)), dtype)
    if not components:
        raise UserError(f"there is nothing to convert in {detected.path}: no {', no '.join(WEIGHT_STEMS)}")
    actual = _variant(components)
    if requested is not None and actual not in (requested, None):
        where = components["transformer"].source.where
        raise UserError(f"the variant of {where} is {actual}, not {requested}: leave out `variant` (--variant)")
    if actual is not None and "vae" in components and components["vae"].source is base_components.get("vae"):
        components["vae"] = _rescale_vae(components["vae"], base_model, actual, notes)
    for component in components.values():
        component.check()
    match [components[name].config if name in components else None for name in WEIGHT_STEMS]:
        case [TransformerConfig() as transformer, VAEConfig() as vae, T5Config() as text_encoder]:
            check_compatible(transformer, vae, text_encoder, where=str(detected.path))

    tokenizer = detected.tokenizer or (base_model.tokenizer if base_model is not None else None)
    schedule, settings = _schedule_and_settings(detected, base_model, actual)
    return ConversionPlan(detected, components, tokenizer, schedule, settings, notes)


def convert_lora(path: Path, target: str | Path, dtype: torch.dtype | None = None) -> LoRA:
    """Convert a LoRA file of any supported trainer to diffusers' names with alpha = rank.

    Args:
        dtype: dtype of the LoRA factors; None keeps the dtype of each.

    Returns:
        The LoRA.

    Raises:
        UserError: see `transformer.lora.io.read_lora` and `write_lora`.
    """
    lora = read_lora(path)
    write_lora(lora, target, dtype=dtype)
    return lora


def _config(component: Component, base: Component | None) -> NetworkConfig:
    """Return a component's config: from its file, or from the base if the tensors match it, or inferred."""
    if not component.config_is_stated and base is not None and base is not component and base.config:
        same_positions = component.config is None or _uses_rotary(component.config) == _uses_rotary(base.config)
        if same_positions and not component.mismatches(base.config):
            return base.config
    if component.config is None:
        raise UserError(
            f"the config of the {component.name} in {component.where} is unknown: {component.config_problem}; pass a "
            "model of the same architecture as `base` (--base), or its name as `variant` (--variant)"
        )
    return component.config


def _uses_rotary(config: NetworkConfig) -> bool | None:
    return config.use_rotary_positional_embeddings if isinstance(config, TransformerConfig) else None


def _variant(components: Mapping[ComponentName, PlannedComponent]) -> Variant | None:
    config = components["transformer"].config if "transformer" in components else None
    return variant_of(config) if isinstance(config, TransformerConfig) else None


def _rescale_vae(
    vae: PlannedComponent, base: DetectedCheckpoint | None, variant: Variant, notes: list[str]
) -> PlannedComponent:
    """Set the scaling factor for the transformer's variant if the VAE is from a base of a different variant.

    The official VAEs share their weights and differ only in the scaling factor.
    """
    base_variant = None if base is None else base.variant
    if base_variant is None or base_variant == variant:
        return vae
    config, old, new = vae.config, VAES[base_variant](), VAES[variant]()
    if not isinstance(config, VAEConfig) or config.scaling_factor != old.scaling_factor:
        return vae
    notes.append(
        f"the base is {base_variant}, the transformer is {variant}: the VAE has the scaling factor of {variant}"
    )
    scaled = replace(config, scaling_factor=new.scaling_factor, invert_scale_latents=new.invert_scale_latents)
    return replace(vae, config=scaled)


def _schedule_and_settings(
    detected: DetectedCheckpoint, base: DetectedCheckpoint | None, variant: Variant | None
) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Return schedule and settings of the source's folder or a base of the same variant, else the official schedule."""
    folder = detected.folder
    if folder is None and base is not None and base.variant == variant:
        folder = base.folder
    if folder is not None and (folder / SCHEDULER_FILE).is_file():
        schedule = read_json(folder / SCHEDULER_FILE)
        ScheduleConfig.from_diffusers(schedule)  # raises UserError if it is not supported
        return schedule, read_json(folder / SETTINGS_FILE) if (folder / SETTINGS_FILE).is_file() else None
    if variant is not None:
        return SCHEDULES[variant]().to_diffusers("ddim" if variant == "2b" else "dpm++"), None
    return None, None
