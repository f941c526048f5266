"""Weights from any form that `identify` knows into a diffusers folder or one safetensors file, tensor by tensor.

What the source lacks (a tokenizer, say, and for most checkpoints the text encoder) comes from a base model, if one is
given. In memory is one tensor at a time, whatever the size of the model; of a LoRA, all of it.
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
from cogvideox.diffusion.config import SAMPLER_OF_SCHEDULER, Sampler, ScheduleConfig
from cogvideox.errors import UserError
from cogvideox.formatting import abbreviate, pluralize
from cogvideox.pretrained.components import NetworkConfig, build_network, diffusers_keymap
from cogvideox.pretrained.conversion.detect import CONFIG_KEY, Component, DetectedCheckpoint, detect_checkpoint
from cogvideox.pretrained.conversion.infer_config import VARIANTS, ComponentName
from cogvideox.pretrained.model_folder import atomic_model_folder
from cogvideox.pretrained.model_settings import Variant, variant_of
from cogvideox.pretrained.model_spec import (
    INDEX_FILE,
    SCHEDULER_FILE,
    SETTINGS_FILE,
    WEIGHT_STEMS,
    check_compatible,
    component_config,
    model_index,
    read_json,
)
from cogvideox.state_dict.export import external_meta, save_external
from cogvideox.state_dict.keymap import to_internal
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
    """A part that will be written: where its tensors come from, and its configuration."""

    part: Component
    config: NetworkConfig
    dtype: torch.dtype | None

    @cached_property
    def meta(self) -> dict[str, Tensor]:
        """Our tensors before they are cast, on the meta device."""
        return to_internal(self.part.state.meta, self.part.rules(self.config))

    @property
    def num_bytes(self) -> int:
        theirs = external_meta(self.meta, diffusers_keymap(self.config), self.dtype)
        return sum(tensor.nbytes for tensor in theirs.values())

    @property
    def num_parameters(self) -> int:
        return sum(tensor.numel() for tensor in self.meta.values())

    def check(self) -> None:
        """Raises UserError where the tensors are not those of the configuration."""
        expected = build_network(self.config).state_dict()
        check_matches(self.part.state, expected, where=self.part.where, rules=self.part.rules(self.config))

    def write(self, file: Path, metadata: Mapping[str, str] | None = None, max_shard_bytes: int | None = None) -> None:
        rules = self.part.rules(self.config)
        tensors = convert_tensors(
            self.part.state, self.meta, where=self.part.where, rules=rules, dtype=self.dtype, keep=False
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
    """What a conversion will write: nothing has been written yet, and everything but the values has been checked.

    schedule: the content of `scheduler_config.json`.
    settings: the content of `cogvideox.json`, where the source or the base has one.
    notes: what somebody should know, a sentence each.
    """

    source: DetectedCheckpoint
    pieces: dict[ComponentName, PlannedComponent]
    tokenizer: Path | None
    schedule: dict[str, Any] | None
    settings: dict[str, Any] | None
    notes: list[str] = field(default_factory=list)

    @property
    def num_bytes(self) -> int:
        return sum(piece.num_bytes for piece in self.pieces.values())

    @property
    def missing(self) -> list[str]:
        """What a model has beside these parts."""
        lacking = [name for name in WEIGHT_STEMS if name not in self.pieces]
        lacking += ["tokenizer"] if self.tokenizer is None else []
        return lacking + (["scheduler"] if self.schedule is None else [])

    def write_folder(self, target: str | Path, *, max_shard_bytes: int | None = 5 * 10**9) -> Path:
        """Writes a diffusers folder: a whole model, or the parts there are; all of it or nothing.

        Raises:
            UserError: something at `target` would be lost; it cannot be written; a tensor holds NaN or infinity.
        """
        files: dict[str, Any] = {f"{name}/config.json": component_config(p.config) for name, p in self.pieces.items()}
        if self.schedule is not None:
            files[SCHEDULER_FILE] = self.schedule
        if self.settings is not None:
            files[SETTINGS_FILE] = self.settings
        if not self.missing:
            transformer, sampler = self.pieces["transformer"].config, _sampler(self.schedule or {})
            assert isinstance(transformer, TransformerConfig)
            files[INDEX_FILE] = model_index(transformer, sampler)
        target = Path(target)
        with atomic_model_folder(target, files, [] if self.tokenizer is None else ["tokenizer"]) as new:
            if self.tokenizer is not None:
                (new / "tokenizer").mkdir()
                for name in _TOKENIZER_FILES:
                    if (self.tokenizer / name).is_file():
                        shutil.copyfile(self.tokenizer / name, new / "tokenizer" / name)
            for name, piece in self.pieces.items():
                piece.write(new / name / f"{WEIGHT_STEMS[name]}.safetensors", max_shard_bytes=max_shard_bytes)
        return target

    def write_file(self, target: str | Path, part: ComponentName | None = None) -> Path:
        """Writes one network as `x.safetensors`, its configuration in the metadata; all of it or nothing.

        Args:
            part: which; of the source's own the transformer, or else the first.

        Raises:
            UserError: no such part, the file cannot be written, a tensor holds NaN or infinity.
        """
        target = Path(target)
        if target.suffix != ".safetensors":
            raise UserError(f"cannot write {target}: the name of a single file ends in .safetensors")
        piece = self.pieces[self.single(part)]
        piece.write(target, metadata={CONFIG_KEY: json.dumps(component_config(piece.config))})
        return target

    def single(self, part: ComponentName | None = None) -> ComponentName:
        """The part that a single file holds. Raises UserError if there is no such part."""
        own = [name for name in self.pieces if name in self.source.parts]
        name = part or (own or [*self.pieces])[0]
        if name not in self.pieces:
            raise UserError(f"{self.source.path} has no {name}; it has {', '.join(self.pieces)}")
        return name


def convert_lora(path: Path, target: str | Path, dtype: torch.dtype | None = None) -> LoRA:
    """Writes a LoRA of any trainer as diffusers names it, with alpha = rank (`lora_files.write_lora`), and gives it.

    Args:
        dtype: of the factors; None keeps each as it is.

    Raises:
        UserError: as `read_lora` and `write_lora`.
    """
    lora = read_lora(path)
    write_lora(lora, target, dtype=dtype)
    return lora


def plan_conversion(
    source: str | Path | DetectedCheckpoint,
    *,
    base: str | Path | None = None,
    variant: str | None = None,
    dtype: torch.dtype | None = None,
) -> ConversionPlan:
    """Finds out what a conversion of `source` will write, and checks names and shapes.

    Args:
        source: a path or a name, or what was identified with the same variant.
        base: a model from which comes what the source lacks: whole parts, and what tensors do not tell of a part.
        variant: decides where tensors do not tell and there is no base; see `identify`.
        dtype: of the weights; None keeps each as it is.

    Raises:
        UserError: what `identify` raises; the source is a LoRA, or has no part of a model; tensors do not fit; a
            configuration is in doubt; the transformer is of another variant.
    """
    like = next((known for known in VARIANTS if known == variant), None)
    if variant is not None and like is None:
        raise UserError(f"there is no variant {variant!r}; the variants are {', '.join(VARIANTS)}")
    spec = source if isinstance(source, DetectedCheckpoint) else detect_checkpoint(source, like)
    if spec.kind == "LoRA":
        raise UserError(f"{spec.path} is a LoRA, not a model: `convert_lora` writes one")
    helper = detect_checkpoint(base, like) if base is not None else None
    if helper is not None and helper.kind == "LoRA":
        raise UserError(f"the base {helper.path} is a LoRA, not a model")
    theirs = helper.parts if helper is not None else {}

    notes = []
    if spec.unknown_tensors:
        notes.append(
            f"passed over: {pluralize(spec.unknown_tensors, 'tensor')} of no part ({abbreviate(spec.unknown_tensors)})"
        )
    pieces: dict[ComponentName, PlannedComponent] = {}
    names: tuple[ComponentName, ...] = ("transformer", "vae", "text_encoder")
    for name in names:
        part = spec.parts.get(name) or theirs.get(name)
        if part is not None:
            pieces[name] = PlannedComponent(part, _config(part, theirs.get(name)), dtype)
    if not pieces:
        raise UserError(f"there is nothing to convert in {spec.path}: no {', no '.join(names)}")
    kind = _variant(pieces)
    if like is not None and kind not in (like, None):
        raise UserError(f"{pieces['transformer'].part.where} is like {kind}, not like {like}: say no variant")
    if kind is not None:
        pieces = {name: _rescaled(piece, theirs.get(name), helper, kind, notes) for name, piece in pieces.items()}
    for piece in pieces.values():
        piece.check()
    configs = [pieces[name].config if name in pieces else None for name in names]
    match configs:
        case [TransformerConfig() as transformer, VAEConfig() as vae, T5Config() as text]:
            check_compatible(transformer, vae, text, where=str(spec.path))

    tokenizer = spec.tokenizer or (helper.tokenizer if helper is not None else None)
    home = _home(spec, helper, kind)
    schedule = settings = None
    if home is not None and (home / SCHEDULER_FILE).is_file():
        schedule = read_json(home / SCHEDULER_FILE)
        settings = read_json(home / SETTINGS_FILE) if (home / SETTINGS_FILE).is_file() else None
        ScheduleConfig.from_diffusers(schedule)
    elif kind is not None:
        schedule = SCHEDULES[kind]().to_diffusers("ddim" if kind == "2b" else "dpm++")
    return ConversionPlan(spec, pieces, tokenizer, schedule, settings, notes)


def _config(part: Component, like: Component | None) -> NetworkConfig:
    """The configuration of a part: the one that is written down, the base's if it fits the tensors, or else what the
    tensors tell."""
    if not part.config_is_stated and like is not None and like is not part and like.config is not None:
        agrees = part.config is None or _positions(part.config) == _positions(like.config)
        if agrees and not part.mismatches(like.config):
            return like.config
    if part.config is None:
        advice = "give a model of the same make as base, or the variant"
        raise UserError(
            f"the configuration of the {part.name} in {part.where} is in doubt: {part.config_problem}; {advice}"
        )
    return part.config


def _positions(config: NetworkConfig) -> bool | None:
    return config.use_rotary_positional_embeddings if isinstance(config, TransformerConfig) else None


def _variant(pieces: Mapping[ComponentName, PlannedComponent]) -> Variant | None:
    piece = pieces.get("transformer")
    return variant_of(piece.config) if piece is not None and isinstance(piece.config, TransformerConfig) else None


def _rescaled(
    piece: PlannedComponent,
    of_base: Component | None,
    helper: DetectedCheckpoint | None,
    kind: Variant,
    notes: list[str],
) -> PlannedComponent:
    """The official VAEs have the same weights in every variant and differ in their scale, which follows the transformer
    when the base is of another variant."""
    like = None if helper is None else helper.variant
    if piece.part is not of_base or like is None or like == kind:
        return piece
    config, before, after = piece.config, VAES[like](), VAES[kind]()
    if not isinstance(config, VAEConfig) or config.scaling_factor != before.scaling_factor:
        return piece
    notes.append(f"the base is like {like}, the transformer like {kind}: the VAE gets the scale of {kind}")
    return replace(
        piece,
        config=replace(config, scaling_factor=after.scaling_factor, invert_scale_latents=after.invert_scale_latents),
    )


def _home(spec: DetectedCheckpoint, helper: DetectedCheckpoint | None, kind: Variant | None) -> Path | None:
    """The folder whose schedule and settings hold: the source's own, or that of a base of the same variant."""
    if spec.folder is not None:
        return spec.folder
    return helper.folder if helper is not None and helper.variant == kind else None


def _sampler(schedule: Mapping[str, Any]) -> Sampler:
    return SAMPLER_OF_SCHEDULER[schedule["_class_name"]]
