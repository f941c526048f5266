"""LoRAs over a transformer: several at once with strengths, beside its weights or merged into them, and off again.

A `LoRA` speaks of layers by diffusers' names, as its files do (`lora_files`), while a layer of ours may join several of
theirs. Where their rows go is asked of the table of names, so that there is one account of it.

The model's own file knows nothing of this: a linear layer is replaced by one that holds the same weights and the LoRAs
with them (`low_rank`), and put back when its last LoRA is gone.
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
from cogvideox.state_dict.keymap import external_names, to_external, to_internal
from cogvideox.transformer.lora.layers import Factors, LowRank, LowRankLinear
from cogvideox.transformer.model import Transformer
from cogvideox.transformer.weights import keymap

TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
"""The layers that the official trainer and finetrainers adapt."""


@dataclass(frozen=True)
class LoRA:
    """Changes of a transformer by the name of each layer in diffusers, such as "transformer_blocks.0.attn1.to_q"."""

    layers: dict[str, Factors]
    base_model: str | None = None
    trigger: str | None = None
    """What a prompt has to say for it to show."""
    alpha_known: bool = True
    """False where the file did not tell, and alpha = rank was assumed, as everywhere."""
    path: Path | None = None
    """The file that it was read from."""


@dataclass(frozen=True)
class Site:
    """Where a layer of theirs lies in a transformer of ours."""

    module: str
    d_in: tuple[int, ...]  # theirs: more than one number for a convolution, whose kernel is flattened here
    d_out: int
    rows: Int[Tensor, " d_out"] | None  # its rows in our matrix; None where that is all of them, in order


def sites(model: Transformer) -> dict[str, Site]:
    """Every linear layer of the model by its name in diffusers."""
    rules = keymap(model.config)
    found: dict[str, Site] = {}
    for path, module in model.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        weight = f"{path}.weight"
        names = external_names(weight, rules)
        shapes = to_external({weight: torch.empty(module.out_features, module.in_features, device="meta")}, rules)
        rows: Sequence[Tensor | None] = [None]
        if len(names) > 1:  # number their rows, let the table place them, and see where each has gone
            numbered = dict(zip(names, torch.arange(module.out_features)[:, None].chunk(len(names))))
            rows = to_internal(numbered, rules)[weight][:, 0].argsort().chunk(len(names))
        for name, own in zip(names, rows):
            d_out, *d_in = shapes[name].shape
            found[name.removesuffix(".weight")] = Site(path, tuple(d_in), d_out, own)
    return found


def add_lora(
    model: Transformer,
    lora: LoRA,
    name: str = "lora",
    *,
    strength: float = 1.0,
    merge: bool = False,
    trainable: bool = False,
) -> None:
    """Lays a LoRA over the model, beside those that are there already.

    Args:
        name: what `remove`, `set_strength` and `extract` call it.
        strength: a factor on all of it; 0 is no change, and a negative one is the opposite change.
        merge: add it to the weights, which costs no time in use but a copy of them in main memory, from which removing
            restores them to the bit. Otherwise its small products are computed beside the layers'.
        trainable: make its factors parameters; then it is not merged.

    Raises:
        UserError: a layer that the model does not have, or in another shape, all named; a name that is taken; weights
            into which nothing can be merged.
    """
    if merge and trainable:
        raise ValueError("a LoRA in training is not merged")
    if merge and not all(layer.can_merge for _, layer in _all_adapted(model)):
        raise UserError("a LoRA cannot be merged into weights in float8: leave merge out, so that it lies beside them")
    _check_strength(strength)
    if name in lora_strengths(model):
        raise UserError(f"a LoRA called {name!r} is loaded already: choose another name, or remove that one first")
    places = sites(model)
    _check_fit(model, lora, places)
    parts: dict[str, list[tuple[str, Factors, Tensor | None]]] = {}
    for layer, factors in lora.layers.items():
        site = places[layer]
        parts.setdefault(site.module, []).append((layer, factors, site.rows))
    for path, pieces in parts.items():
        layer = _adapted(model, path)
        layer.loras.append(LowRank(name, pieces, layer, strength, trainable=trainable, merged=merge))
        if merge:
            layer.rebuild()


def remove_lora(model: Transformer, name: str | None = None) -> None:
    """Takes one LoRA off the model, or all: the weights are then what they were, to the bit.

    Raises:
        UserError: there is none of that name.
    """
    if name is not None:
        _check_name(model, name)
    for path, layer in _all_adapted(model):
        kept = [lora for lora in layer.each() if name is not None and lora.name != name]
        gone = [lora for lora in layer.each() if lora not in kept]
        layer.loras = nn.ModuleList(kept)
        if any(lora.merged for lora in gone):
            layer.rebuild()
        if not kept:
            model.set_submodule(path, layer.plain())


def set_strength(model: Transformer, name: str, strength: float) -> None:
    """Changes how much of a LoRA is in effect.

    Raises:
        UserError: there is none of that name, or the strength is no number.
    """
    _check_name(model, name)
    _check_strength(strength)
    for _, layer in _all_adapted(model):
        for lora in layer.each():
            if lora.name == name:
                lora.strength = float(strength)
                if lora.merged:
                    layer.rebuild()


def lora_strengths(model: Transformer) -> dict[str, float]:
    """The LoRAs on the model, in the order in which they were added."""
    return {lora.name: lora.strength for _, layer in _all_adapted(model) for lora in layer.each()}


def create_lora(
    model: Transformer,
    generator: torch.Generator,
    *,
    rank: int = 128,
    alpha: float | None = None,
    targets: Sequence[str] = TARGETS,
    base_model: str | None = None,
    trigger: str | None = None,
) -> LoRA:
    """A LoRA that changes nothing yet: `up` is 0, and `down` is drawn as peft does, uniform within 1 / sqrt(d_in).

    Args:
        alpha: the rank unless given, which makes the scale 1.
        targets: layers by the end of their name in diffusers, such as "to_q" or "ff.net.2".

    Raises:
        UserError: a target that no layer's name ends with; a rank below 1.
    """
    if rank < 1:
        raise UserError(f"rank={rank} of a LoRA must be 1 or more")
    places = sites(model)
    layers: dict[str, Factors] = {}
    for target in targets:
        matching = {name: site for name, site in places.items() if f".{name}".endswith(f".{target}")}
        if not matching:
            ends = sorted({re.sub(r"^transformer_blocks\.\d+\.", "", name) for name in places})
            raise UserError(f"no layer's name ends with {target!r}; the layers are {', '.join(ends)}")
        for name, site in matching.items():
            down = torch.rand(rank, *site.d_in, generator=generator) * 2 - 1
            factors = Factors(
                down / math.prod(site.d_in) ** 0.5,
                torch.zeros(site.d_out, rank),
                float(rank if alpha is None else alpha),
            )
            layers[name] = factors
    ordered = {name: layers[name] for name in places if name in layers}
    return LoRA(ordered, base_model=base_model, trigger=trigger)


def extract_lora(model: Transformer, name: str = "lora") -> LoRA:
    """The LoRA of that name as it is on the model now, to be written to a file. Its strength is not part of it.

    Raises:
        UserError: there is none of that name.
    """
    _check_name(model, name)
    places = sites(model)
    layers: dict[str, Factors] = {}
    for _, module in _all_adapted(model):
        for lora in module.each():
            if lora.name == name:
                for layer, (down, up), alpha in zip(lora.layers, lora.pairs(), lora.alphas):
                    shaped = down.detach().cpu().unflatten(1, places[layer].d_in)
                    layers[layer] = Factors(shaped, up.detach().cpu(), alpha)
    return LoRA({layer: layers[layer] for layer in places if layer in layers})


def lora_parameters(model: Transformer) -> nn.ModuleList:
    """The factors of all LoRAs on the model: what learns of a transformer that itself stays as it is."""
    return nn.ModuleList(lora for _, layer in _all_adapted(model) for lora in layer.each())


def _adapted(model: Transformer, path: str) -> LowRankLinear:
    layer = model.get_submodule(path)
    if isinstance(layer, LowRankLinear):
        return layer
    assert isinstance(layer, nn.Linear)
    model.set_submodule(path, adapted := LowRankLinear(layer))
    return adapted


def _all_adapted(model: Transformer) -> list[tuple[str, LowRankLinear]]:
    return [(path, module) for path, module in model.named_modules() if isinstance(module, LowRankLinear)]


def _check_name(model: Transformer, name: str) -> None:
    if name not in (there := lora_strengths(model)):
        raise UserError(f"there is no LoRA called {name!r} on the model; there is {', '.join(there) or 'none'}")


def _check_strength(strength: float) -> None:
    if not math.isfinite(strength):
        raise UserError(f"strength={strength} of a LoRA must be a number, such as 1.0")


def _check_fit(model: Transformer, lora: LoRA, places: dict[str, Site]) -> None:
    unknown = [layer for layer in lora.layers if layer not in places]
    misshapen = []
    for layer, factors in lora.layers.items():
        if layer in places and (
            tuple(factors.down.shape[1:]) != places[layer].d_in or len(factors.up) != places[layer].d_out
        ):
            theirs = f"{_size(factors.down.shape[1:])} to {len(factors.up)}"
            misshapen.append(f"{layer} goes from {theirs}, not {_size(places[layer].d_in)} to {places[layer].d_out}")
    problems = []
    if misshapen:
        problems.append(
            f"{len(misshapen)} of its {len(lora.layers)} layers have another shape ({abbreviate(misshapen)})"
        )
    if unknown:
        problems.append(f"{len(unknown)} of its {len(lora.layers)} layers are not in the model ({abbreviate(unknown)})")
    if problems:
        what = f"this transformer of {model.config.num_layers} blocks and width {model.config.width}"
        raise UserError(f"{lora.path or 'the LoRA'} does not fit {what}: {'; '.join(problems)}")


def _size(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
