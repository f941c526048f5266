"""LoRA files: those of all programs are read (`lora_names` knows them), ours are written in the names of diffusers.

Alpha is a tensor beside the factors, or in the metadata, or in peft's `adapter_config.json`; a checkpoint of SAT is of
alpha 1, its trainer's default. A file that does not tell is taken as alpha = rank, as by every other program.
"""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cogvideox.errors import UserError
from cogvideox.formatting import abbreviate, pluralize
from cogvideox.state_dict.safetensors_io import save_state
from cogvideox.state_dict.torch_io import open_weights
from cogvideox.transformer.lora.inject import LoRA
from cogvideox.transformer.lora.key_formats import guess_contents, is_base_weight, parse_key
from cogvideox.transformer.lora.layers import Factors
from cogvideox.transformer.lora.locate import resolve_lora_file
from cogvideox.transformer.lora.peft_alphas import PeftAlphas
from cogvideox.untrusted import parse_json, reading

_ADAPTER_METADATA = "lora_adapter_metadata"  # diffusers: peft's configuration, every key with the part's name before it


def read_lora(path: str | Path) -> LoRA:
    """Reads a LoRA: a `.safetensors` or pickled file (which runs no code), or the folder that a trainer wrote it to.

    Raises:
        UserError: no such file, or not one of tensors; not a LoRA for CogVideoX, with what it seems to be; tensors that
            have no place in a LoRA, half a pair, factors that do not fit each other, NaN or infinity, all by name.
    """
    path = resolve_lora_file(path)
    with reading(path, "damaged or not a LoRA"):
        state = open_weights(path)
        header = state.metadata
        pairs, alphas = _sort(state, path)
        config = _config(header, path)
        alpha_of = PeftAlphas(config)
        layers = {}
        for layer, pair in pairs.items():
            layers[layer] = _factors(layer, pair["down"], pair["up"], alphas.get(layer), alpha_of, path)
        base_model = config.get("base_model_name_or_path") or header.get("base_model")
        if not isinstance(base_model, str | None):
            raise TypeError(f"base_model_name_or_path is a {type(base_model).__name__}")
        return LoRA(
            layers,
            base_model=base_model,
            trigger=header.get("trigger"),
            alpha_known=bool(alphas) or "lora_alpha" in config,
            path=path,
        )


def write_lora(lora: LoRA, path: str | Path, *, keep_alpha: bool = False, dtype: torch.dtype | None = None) -> None:
    """Writes a LoRA as `pytorch_lora_weights.safetensors` of diffusers, whose `load_lora_weights` reads it.

    Rank and alpha of each layer are in the metadata as peft's configuration, and for people as `rank`, `alpha`,
    `trained_alpha`, `base_model` and `trigger`. Many programs do not read metadata and take alpha = rank, diffusers'
    own `load_lora_adapter` among them unless it is told to; so `up` is multiplied by alpha / rank, which makes that
    true, and the change the same everywhere.

    Args:
        path: ends in `.safetensors`.
        keep_alpha: write the factors as they are, for programs that read alpha in the metadata.
        dtype: of the factors; None keeps each as it is.

    Raises:
        UserError: the file cannot be written; numbers that the type of the factors cannot hold.
    """
    state, ranks, alphas, large = {}, {}, {}, []
    for layer, factors in lora.layers.items():
        down, up = factors.down.to(dtype), factors.up
        if not keep_alpha:  # rounded once
            up = up.to(torch.promote_types(up.dtype, torch.float32)) * factors.scale
        up = up.to(factors.up.dtype if dtype is None else dtype)
        if not (down.isfinite().all() and up.isfinite().all()):
            large.append(layer)
        kernel = (1,) * (factors.down.ndim - 2)  # peft's change of a convolution ends in one of 1x1
        state[f"transformer.{layer}.lora_A.weight"] = down
        state[f"transformer.{layer}.lora_B.weight"] = up.reshape(*up.shape, *kernel)
        ranks[layer] = factors.rank
        alphas[layer] = factors.alpha if keep_alpha else float(factors.rank)
    if large:
        kinds = {str(tensor.dtype).removeprefix("torch.") for tensor in state.values()}
        raise UserError(f"{lora.path or 'the LoRA'} does not fit into {', '.join(sorted(kinds))}: {abbreviate(large)}")
    rank, alpha = _most_common(ranks.values()), _most_common(alphas.values())
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": lora.base_model,
        "r": rank,
        "lora_alpha": alpha,
        # "^" keeps peft from taking a name for the end of a longer one.
        "rank_pattern": {f"^{layer}": own for layer, own in ranks.items() if own != rank},
        "alpha_pattern": {f"^{layer}": own for layer, own in alphas.items() if own != alpha},
        "target_modules": list(lora.layers),
    }
    header = {
        _ADAPTER_METADATA: json.dumps({f"transformer.{key}": value for key, value in config.items()}, indent=2),
        "rank": str(rank),
        "alpha": f"{alpha:g}",
        "trained_alpha": f"{_most_common(factors.alpha for factors in lora.layers.values()):g}",
        **({"base_model": lora.base_model} if lora.base_model is not None else {}),
        **({"trigger": lora.trigger} if lora.trigger is not None else {}),
    }
    save_state(state, path, metadata=header)


def _sort(state: Mapping[str, Tensor], path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, float]]:
    """Every tensor of the file to its layer: (down and up, alpha) by layer, or an error that names the strangers."""
    places = {name: parse_key(name) for name in state}
    # Beside the factors, a checkpoint of SAT holds the whole base, which was frozen.
    is_sat = any(place is not None and place.is_sat for place in places.values())
    strangers = [name for name, place in places.items() if place is None and not (is_sat and is_base_weight(name))]
    pairs: dict[str, dict[str, Tensor]] = {}
    alphas: dict[str, float] = {}
    for name, place in places.items():
        if place is None:
            continue
        if place.role == "alpha":
            if state[name].numel() != 1:
                raise UserError(f"{name} in {path} is an alpha of {state[name].numel()} numbers, not of one")
            alphas[place.layer] = state[name].item()
            continue
        if place.is_sat:
            alphas[place.layer] = 1.0
        if place.role in (pair := pairs.setdefault(place.layer, {})):
            raise UserError(f"{path} holds more than one LoRA: {name} is a second {place.role} of {place.layer}")
        pair[place.role] = state[name]

    if not pairs:
        raise UserError(
            f"{path} holds no LoRA for CogVideoX: it seems to be {guess_contents(state) or _described(state)}"
        )
    if strangers:
        kind = f"; it seems to be {what}" if (what := guess_contents(strangers)) else ""
        share = f"{len(strangers)} of {pluralize(list(state), 'tensor')}"
        raise UserError(f"{share} in {path} have no place in a LoRA for CogVideoX{kind}: {abbreviate(strangers)}")
    if halves := [f"{layer} has only {next(iter(pair))}" for layer, pair in pairs.items() if len(pair) < 2]:
        raise UserError(f"pairs of factors are incomplete in {path}: {abbreviate(halves)}")
    if lonely := [layer for layer in alphas if layer not in pairs]:
        raise UserError(f"{path} has an alpha, but no factors, of {abbreviate(lonely)}")
    return pairs, alphas


def _factors(layer: str, down: Tensor, up: Tensor, alpha: float | None, alpha_of: PeftAlphas, path: Path) -> Factors:
    where = f"{layer} in {path}"
    if up.ndim == 4 and up.shape[2:] == (1, 1):
        up = up.flatten(1)
    if down.ndim < 2 or up.ndim != 2 or not 0 < len(down) == up.shape[1]:
        raise UserError(f"the factors of {where} do not fit each other: {list(down.shape)} and {list(up.shape)}")
    if not (down.is_floating_point() and up.is_floating_point()):
        raise UserError(f"the factors of {where} are {down.dtype} and {up.dtype}, not floating-point numbers")
    # There is no arithmetic for numbers of 8 bits; bfloat16 holds them exactly.
    down, up = (tensor.bfloat16() if tensor.itemsize < 2 else tensor for tensor in (down, up))
    if not (down.isfinite().all() and up.isfinite().all()):
        raise UserError(f"the factors of {where} are damaged: they hold NaN or infinity")
    if alpha is None:
        try:
            alpha = alpha_of(layer, len(down))
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            raise UserError(f"the configuration in {path} does not tell an alpha for {layer} ({error})") from error
    if not math.isfinite(alpha):
        raise UserError(f"alpha={alpha} of {where} is not a number")
    return Factors(down, up, alpha)


def _config(header: Mapping[str, str], path: Path) -> dict[str, Any]:
    """peft's configuration of the file, wherever its program keeps it: in the metadata, or in a file beside it."""
    text = header.get(_ADAPTER_METADATA) or header.get("lora_config")
    beside = path.with_name("adapter_config.json")
    if text is None and path.name.startswith("adapter_model") and beside.is_file():
        text = beside.read_text(encoding="utf-8")
    try:
        config = parse_json(text) if text else {}
        if not isinstance(config, dict):
            raise ValueError(f"it is a {type(config).__name__}")
    except ValueError as error:
        raise UserError(f"cannot read the configuration of the LoRA {path}: it is no JSON object") from error
    config = {key.removeprefix("transformer."): value for key, value in config.items()}
    if config.get("peft_type") not in (None, "LORA") or config.get("use_dora"):
        kind = "DORA" if config.get("use_dora") else config["peft_type"]
        raise UserError(f"{path} is a {kind} adapter of peft; only LORA can be loaded")
    return config


def _described(state: Mapping[str, Tensor]) -> str:
    return f"something else, with tensors such as {abbreviate(sorted(state))}" if state else "empty"


def _most_common(values: Iterable[Any]) -> Any:
    values = list(values)
    return max(values, key=values.count)
