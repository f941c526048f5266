"""Read LoRA files of all common programs (`key_formats`), and write them with diffusers' names.

Alpha is stored as a tensor, in the file's metadata, or in peft's `adapter_config.json`. SAT checkpoints have alpha 1,
the default of SAT's trainer. If alpha is not stored, alpha = rank is assumed, as in other programs.
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
from cogvideox.untrusted.files import parse_json, read_text, reading

_ADAPTER_METADATA = "lora_adapter_metadata"  # in diffusers: peft's configuration, keys prefixed with the component


def read_lora(path: str | Path) -> LoRA:
    """Read a LoRA from a `.safetensors` or pickle file, or from the folder of a trainer. Pickles never execute code.

    Raises:
        UserError: the file does not exist or has no tensors; it is not a LoRA for CogVideoX (the message says what it
            seems to be); or it has unknown tensors, incomplete pairs of factors, mismatched shapes, NaN or infinity.
    """
    path = resolve_lora_file(path)
    with reading(path, "damaged or not a LoRA"):
        state = open_weights(path)
        header = state.metadata
        pairs, alphas = _group_by_layer(state, path)
        config = _read_peft_config(header, path)
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
    """Write a LoRA in the format of diffusers' `load_lora_weights`.

    The metadata contains the rank and alpha of each layer as peft's configuration, and `rank`, `alpha`,
    `trained_alpha`, `base_model` and `trigger` as information for users. Many programs ignore metadata and assume
    alpha = rank, including diffusers' `load_lora_adapter` by default. Therefore `up` is multiplied by alpha / rank, so
    that alpha = rank holds and the effect is the same in all programs.

    Args:
        path: must end in `.safetensors`.
        keep_alpha: write the original factors, for programs that read alpha from the metadata.
        dtype: dtype of the factors; None keeps the dtype of each.

    Raises:
        UserError: the file cannot be written, or values overflow the dtype.
    """
    state, ranks, alphas, overflowing = {}, {}, {}, []
    for layer, factors in lora.layers.items():
        down, up = factors.down.to(dtype), factors.up
        if not keep_alpha:  # in float32, so that the product is rounded once
            up = up.to(torch.promote_types(up.dtype, torch.float32)) * factors.scale
        up = up.to(factors.up.dtype if dtype is None else dtype)
        if not (down.isfinite().all() and up.isfinite().all()):
            overflowing.append(layer)
        kernel = (1,) * (factors.down.ndim - 2)  # in peft, `up` of a convolution is a 1x1 convolution
        state[f"transformer.{layer}.lora_A.weight"] = down
        state[f"transformer.{layer}.lora_B.weight"] = up.reshape(*up.shape, *kernel)
        ranks[layer] = factors.rank
        alphas[layer] = factors.alpha if keep_alpha else float(factors.rank)
    if overflowing:
        dtypes = {str(tensor.dtype).removeprefix("torch.") for tensor in state.values()}
        raise UserError(
            f"{lora.path or 'the LoRA'} has values too large for {', '.join(sorted(dtypes))}: {abbreviate(overflowing)}"
        )
    rank, alpha = _most_common(ranks.values()), _most_common(alphas.values())
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": lora.base_model,
        "r": rank,
        "lora_alpha": alpha,
        # Without "^", peft would also match longer names that end with this one.
        "rank_pattern": {f"^{layer}": layer_rank for layer, layer_rank in ranks.items() if layer_rank != rank},
        "alpha_pattern": {f"^{layer}": layer_alpha for layer, layer_alpha in alphas.items() if layer_alpha != alpha},
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


def _group_by_layer(state: Mapping[str, Tensor], path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, float]]:
    """Group the tensors of a file by layer. Returns {"down": ..., "up": ...} and alpha of each layer."""
    keys = {name: parse_key(name) for name in state}
    # SAT checkpoints also contain the frozen base model.
    is_sat = any(key is not None and key.is_sat for key in keys.values())
    unknown = [name for name, key in keys.items() if key is None and not (is_sat and is_base_weight(name))]
    pairs: dict[str, dict[str, Tensor]] = {}
    alphas: dict[str, float] = {}
    for name, key in keys.items():
        if key is None:
            continue
        if key.role == "alpha":
            if state[name].numel() != 1:
                raise UserError(f"alpha {name} in {path} has {state[name].numel()} values, but must have 1")
            alphas[key.layer] = state[name].item()
            continue
        if key.is_sat:
            alphas[key.layer] = 1.0
        if key.role in (pair := pairs.setdefault(key.layer, {})):
            raise UserError(f"{path} has more than one LoRA: {name} is a second {key.role} of {key.layer}")
        pair[key.role] = state[name]

    if not pairs:
        raise UserError(
            f"{path} has no LoRA for CogVideoX: it seems to be {guess_contents(state) or _describe_tensors(state)}"
        )
    if unknown:
        guess = f"; it seems to be {contents}" if (contents := guess_contents(unknown)) else ""
        count = f"{len(unknown)} of {pluralize(list(state), 'tensor')}"
        raise UserError(f"{count} in {path} do not belong to a LoRA for CogVideoX{guess}: {abbreviate(unknown)}")
    if incomplete := [f"{layer} has only {next(iter(pair))}" for layer, pair in pairs.items() if len(pair) < 2]:
        raise UserError(f"pairs of factors in {path} are incomplete: {abbreviate(incomplete)}")
    if without_factors := [layer for layer in alphas if layer not in pairs]:
        raise UserError(f"{path} has alpha but no factors of {abbreviate(without_factors)}")
    return pairs, alphas


def _factors(layer: str, down: Tensor, up: Tensor, alpha: float | None, alpha_of: PeftAlphas, path: Path) -> Factors:
    where = f"{layer} in {path}"
    if up.ndim == 4 and up.shape[2:] == (1, 1):
        up = up.flatten(1)
    if down.ndim < 2 or up.ndim != 2 or not 0 < len(down) == up.shape[1]:
        raise UserError(f"the shapes of the factors of {where} do not match: {list(down.shape)} and {list(up.shape)}")
    if not (down.is_floating_point() and up.is_floating_point()):
        raise UserError(f"the factors of {where} are {down.dtype} and {up.dtype}, not floating-point")
    # 8-bit floats have no arithmetic; bfloat16 represents them exactly.
    down, up = (tensor.bfloat16() if tensor.itemsize < 2 else tensor for tensor in (down, up))
    if not (down.isfinite().all() and up.isfinite().all()):
        raise UserError(f"the factors of {where} are damaged: they contain NaN or infinity")
    if alpha is None:
        try:
            alpha = alpha_of(layer, len(down))
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            raise UserError(f"the configuration in {path} has no valid alpha for {layer} ({error})") from error
    if not math.isfinite(alpha):
        raise UserError(f"alpha={alpha} of {where} must be a finite number")
    return Factors(down, up, alpha)


def _read_peft_config(header: Mapping[str, str], path: Path) -> dict[str, Any]:
    """Read peft's configuration from the metadata or from `adapter_config.json` in the same folder."""
    config_json = header.get(_ADAPTER_METADATA) or header.get("lora_config")
    config_file = path.with_name("adapter_config.json")
    if config_json is None and path.name.startswith("adapter_model") and config_file.is_file():
        config_json = read_text(config_file)
    try:
        config = parse_json(config_json) if config_json else {}
        if not isinstance(config, dict):
            raise ValueError(f"it is a {type(config).__name__}")
    except ValueError as error:
        raise UserError(f"cannot read the configuration of the LoRA {path}: it is not a JSON object") from error
    config = {key.removeprefix("transformer."): value for key, value in config.items()}
    if config.get("peft_type") not in (None, "LORA") or config.get("use_dora"):
        kind = "DORA" if config.get("use_dora") else config["peft_type"]
        raise UserError(f"{path} is a {kind} adapter of peft, but only LORA is supported")
    return config


def _describe_tensors(state: Mapping[str, Tensor]) -> str:
    return f"an unknown file type, with tensors such as {abbreviate(sorted(state))}" if state else "empty"


def _most_common(values: Iterable[Any]) -> Any:
    values = list(values)
    return max(values, key=values.count)
