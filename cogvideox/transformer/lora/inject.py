"""Add LoRAs to a transformer (merged or unmerged), change their strength, remove them and extract them.

A `LoRA` has the layer names of diffusers, while a linear layer here may combine several layers of diffusers. The rows
of each follow from the keymap (`transformer.checkpoint_keys.diffusers_keymap`).

The model itself has no LoRA code: linear layers are replaced by `LoRALinear`, which has the same weights, and restored
when their last LoRA is removed.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor, nn

from cogvideox.errors import UserError
from cogvideox.formatting import abbreviate
from cogvideox.state_dict.key_rules import external_names, to_external, to_internal
from cogvideox.transformer.checkpoint_keys import diffusers_keymap
from cogvideox.transformer.lora.config import DEFAULT_TARGETS
from cogvideox.transformer.lora.layers import Factors, LoRALinear, LoRAModule
from cogvideox.transformer.lora.merge import update_merged_weight
from cogvideox.transformer.model import Transformer


@dataclass(frozen=True)
class LoRA:
    """A LoRA: factors by the name of each layer in diffusers, such as "transformer_blocks.0.attn1.to_q"."""

    layers: dict[str, Factors]
    base_model: str | None = None
    trigger: str | None = None
    """Trigger words that a prompt should contain."""
    alpha_known: bool = True
    """False if the file has no alpha, so that alpha = rank is assumed, as in other programs."""
    path: Path | None = None
    """File from which the LoRA was read."""


@dataclass(frozen=True)
class LoRATarget:
    """The location of a diffusers layer in a transformer of this package."""

    module: str
    d_in: tuple[int, ...]  # channels and kernel size for a convolution, whose weight is flattened here
    d_out: int
    rows: Int[Tensor, " d_out"] | None  # its rows in the module's weight; None: all rows, in order


def lora_targets(model: Transformer) -> dict[str, LoRATarget]:
    """Return the location of every linear layer of the model, by its name in diffusers."""
    rules = diffusers_keymap(model.config)
    targets: dict[str, LoRATarget] = {}
    for path, module in model.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        weight = f"{path}.weight"
        names = external_names(weight, rules)
        shapes = to_external({weight: torch.empty(module.out_features, module.in_features, device="meta")}, rules)
        rows: Sequence[Tensor | None] = [None]
        if len(names) > 1:  # apply the keymap to row indices to find the position of each row
            row_indices = dict(zip(names, torch.arange(module.out_features)[:, None].chunk(len(names))))
            rows = to_internal(row_indices, rules)[weight][:, 0].argsort().chunk(len(names))
        for name, layer_rows in zip(names, rows):
            d_out, *d_in = shapes[name].shape
            targets[name.removesuffix(".weight")] = LoRATarget(path, tuple(d_in), d_out, layer_rows)
    return targets


def add_lora(
    model: Transformer,
    lora: LoRA,
    name: str = "lora",
    *,
    strength: float = 1.0,
    merge: bool = False,
    trainable: bool = False,
) -> None:
    """Add a LoRA to the model, in place.

    Args:
        name: name of the LoRA for `remove_lora`, `set_strength` and `extract_lora`.
        strength: factor on the whole LoRA; 0 has no effect, and negative values are allowed.
        merge: add the LoRA to the weights. This makes inference faster, but keeps a copy of the original weights in CPU
            memory, from which `remove_lora` restores them exactly.
        trainable: make the factors trainable parameters; cannot be combined with `merge`.

    Raises:
        UserError: the model lacks some of the layers, or their shapes differ; the name is already in use; the strength
            is not finite; or `merge` is used with float8 or int8 weights.
    """
    if merge and trainable:
        raise ValueError("a trainable LoRA cannot be merged: pass one of merge and trainable")
    if merge and not all(layer.can_merge for _, layer in _lora_linears(model)):
        raise UserError("a LoRA cannot be merged into 8-bit weights: leave merge out")
    _check_strength(strength)
    if name in lora_strengths(model):
        raise UserError(f"a LoRA called {name!r} is already loaded: choose a different name, or remove that LoRA first")
    available = lora_targets(model)
    _check_fit(model, lora, available)
    by_module: dict[str, list[tuple[str, Factors, Tensor | None]]] = {}
    for layer, factors in lora.layers.items():
        target = available[layer]
        by_module.setdefault(target.module, []).append((layer, factors, target.rows))
    for path, parts in by_module.items():
        layer = _to_lora_linear(model, path)
        layer.loras.append(LoRAModule(name, parts, layer, strength, trainable=trainable, merged=merge))
        if merge:
            update_merged_weight(layer)


def remove_lora(model: Transformer, name: str | None = None) -> None:
    """Remove one LoRA (or all, without a name) from the model, in place. Weights are restored exactly.

    Raises:
        UserError: no LoRA has that name.
    """
    if name is not None:
        _check_name(model, name)
    for path, layer in _lora_linears(model):
        remaining = [lora for lora in layer.lora_modules() if name is not None and lora.name != name]
        removed = [lora for lora in layer.lora_modules() if lora not in remaining]
        layer.loras = nn.ModuleList(remaining)
        if any(lora.merged for lora in removed):
            update_merged_weight(layer)
        if not remaining:
            model.set_submodule(path, layer.without_loras())


def set_strength(model: Transformer, name: str, strength: float) -> None:
    """Change the strength of a LoRA.

    Raises:
        UserError: no LoRA has that name, or the strength is not finite.
    """
    _check_name(model, name)
    _check_strength(strength)
    for _, layer in _lora_linears(model):
        for lora in layer.lora_modules():
            if lora.name == name:
                lora.strength = float(strength)
                if lora.merged:
                    update_merged_weight(layer)


def lora_strengths(model: Transformer) -> dict[str, float]:
    """Return the strength of each LoRA of the model by name, in the order in which they were added."""
    return {lora.name: lora.strength for _, layer in _lora_linears(model) for lora in layer.lora_modules()}


def create_lora(
    model: Transformer,
    generator: torch.Generator,
    *,
    rank: int,
    alpha: float | None = None,
    targets: Sequence[str] = DEFAULT_TARGETS,
    base_model: str | None = None,
    trigger: str | None = None,
) -> LoRA:
    """Create a LoRA for training: `up` is 0, and `down` is uniform in +-1 / sqrt(d_in), as in peft.

    Args:
        alpha: the scale is alpha / rank; by default alpha = rank.
        targets: suffixes of the names of target layers in diffusers, such as "to_q" or "ff.net.2".

    Raises:
        UserError: no layer's name ends with a target, or the rank is below 1.
    """
    if rank < 1:
        raise UserError(f"rank={rank} of a LoRA must be 1 or more")
    available = lora_targets(model)
    layers: dict[str, Factors] = {}
    for suffix in targets:
        matching = {name: target for name, target in available.items() if f".{name}".endswith(f".{suffix}")}
        if not matching:
            suffixes = sorted({re.sub(r"^transformer_blocks\.\d+\.", "", name) for name in available})
            raise UserError(f"no layer's name ends with {suffix!r}; the layers are {', '.join(suffixes)}")
        for name, target in matching.items():
            down = torch.rand(rank, *target.d_in, generator=generator) * 2 - 1
            factors = Factors(
                down / math.prod(target.d_in) ** 0.5,
                torch.zeros(target.d_out, rank),
                float(rank if alpha is None else alpha),
            )
            layers[name] = factors
    ordered = {name: layers[name] for name in available if name in layers}
    return LoRA(ordered, base_model=base_model, trigger=trigger)


def extract_lora(model: Transformer, name: str = "lora") -> LoRA:
    """Return the current factors of a LoRA of the model, for `write_lora`. The strength is not included.

    Raises:
        UserError: no LoRA has that name.
    """
    _check_name(model, name)
    available = lora_targets(model)
    layers: dict[str, Factors] = {}
    for _, module in _lora_linears(model):
        for lora in module.lora_modules():
            if lora.name == name:
                for layer, (down, up), alpha in zip(lora.layers, lora.factor_pairs(), lora.alphas):
                    shaped = down.detach().cpu().unflatten(1, available[layer].d_in)
                    layers[layer] = Factors(shaped, up.detach().cpu(), alpha)
    return LoRA({layer: layers[layer] for layer in available if layer in layers})


def lora_parameters(model: Transformer) -> nn.ModuleList:
    """Return the factors of all LoRAs of the model: the trainable parameters of LoRA fine-tuning."""
    return nn.ModuleList(lora for _, layer in _lora_linears(model) for lora in layer.lora_modules())


def _to_lora_linear(model: Transformer, path: str) -> LoRALinear:
    layer = model.get_submodule(path)
    if isinstance(layer, LoRALinear):
        return layer
    assert isinstance(layer, nn.Linear)
    model.set_submodule(path, lora_layer := LoRALinear(layer))
    return lora_layer


def _lora_linears(model: Transformer) -> list[tuple[str, LoRALinear]]:
    return [(path, module) for path, module in model.named_modules() if isinstance(module, LoRALinear)]


def _check_name(model: Transformer, name: str) -> None:
    if name not in (names := lora_strengths(model)):
        raise UserError(f"the model has no LoRA called {name!r}; it has {', '.join(names) or 'none'}")


def _check_strength(strength: float) -> None:
    if not math.isfinite(strength):
        raise UserError(f"strength={strength} of a LoRA must be a finite number, such as 1.0")


def _check_fit(model: Transformer, lora: LoRA, available: dict[str, LoRATarget]) -> None:
    unknown = [layer for layer in lora.layers if layer not in available]
    wrong_shapes = []
    for layer, factors in lora.layers.items():
        if layer in available and (
            tuple(factors.down.shape[1:]) != available[layer].d_in or len(factors.up) != available[layer].d_out
        ):
            actual = f"{_size(factors.down.shape[1:])} to {len(factors.up)}"
            wrong_shapes.append(f"{layer} is {actual}, not {_size(available[layer].d_in)} to {available[layer].d_out}")
    problems = []
    if wrong_shapes:
        problems.append(
            f"{len(wrong_shapes)} of its {len(lora.layers)} layers have a different shape ({abbreviate(wrong_shapes)})"
        )
    if unknown:
        problems.append(f"{len(unknown)} of its {len(lora.layers)} layers are not in the model ({abbreviate(unknown)})")
    if problems:
        transformer = f"this transformer of {model.config.num_layers} blocks and width {model.config.width}"
        raise UserError(f"{lora.path or 'the LoRA'} does not fit {transformer}: {'; '.join(problems)}")


def _size(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
