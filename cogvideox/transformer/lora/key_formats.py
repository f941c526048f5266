"""Tensor names in the LoRA files of common programs, and descriptions of files that are not LoRAs for CogVideoX.

Names of the query projection in the first block, without the prefixes of programs and wrappers:

| written by                                          | name                                                         |
|-----------------------------------------------------|--------------------------------------------------------------|
| diffusers, peft, the official trainer, finetrainers | `transformer_blocks.0.attn1.to_q.lora_A.weight`              |
| ComfyUI; SAT's export                               | the same                                                     |
| older diffusers                                     | `transformer_blocks.0.attn1.to_q.lora.down.weight`           |
| diffusers before peft                               | `transformer_blocks.0.attn1.processor.to_q_lora.down.weight` |
| kohya's programs, VideoX-Fun                        | `transformer_blocks_0_attn1_to_q.lora_down.weight`           |
| SAT, with the weights of the base model             | `layers.0.attention.query_key_value.matrix_A.0`              |
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from cogvideox.transformer.checkpoint_keys import diffusers_keymap
from cogvideox.transformer.config import TransformerConfig

_FACTOR = re.compile(r"(?P<layer>.+?)[._](?:lora|lora_linear_layer)[._](?P<role>A|B|down|up)(?:(?:\.[\w-]+)?\.weight)?")
_ALPHA = re.compile(r"(?P<layer>.+?)(?:\.lora(?:_A|_B|_down|_up)?)?\.alpha")
_SAT_FACTOR = re.compile(r"(?:.*\.)?layers\.(?P<n>\d+)\.(?P<layer>.+)\.matrix_(?P<role>[AB])\.(?P<index>\d+)")

_PREFIX = re.compile(
    r"(?:base_model\.model|model|module|pipe|dit|diffusion_model|transformer)\.|lora_(?:unet|transformer)_+"
)
_WRAPPER = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|processor)\.")

_SAT_LAYERS = {
    "attention.query_key_value": ("attn1.to_q", "attn1.to_k", "attn1.to_v"),
    "attention.dense": ("attn1.to_out.0",),
    "mlp.dense_h_to_4h": ("ff.net.0.proj",),
    "mlp.dense_4h_to_h": ("ff.net.2",),
}

# Description of a file by a pattern of its tensor names; the first match counts.
_DESCRIPTIONS = {
    r"lora_magnitude_vector|dora_scale": "a DoRA, which is not supported",
    r"lokr_|hada_": "a LoKr or LoHa, which is not a low-rank adapter",
    r"lora_te|text_encoder|text_model": "a LoRA of a text encoder",
    r"[qkvo]_proj": "a language model, or a LoRA for one",
    r"[._](?:self_attn|cross_attn)[._][qkvo][._]": "a LoRA for Wan",
    r"single_(?:transformer_)?blocks|double_blocks": "a LoRA for Flux or HunyuanVideo",
    r"attn2[._].*(?:lora|alpha)": "a LoRA for Stable Diffusion, LTX-Video or another model with cross-attention",
    r"transformer_blocks\.\d+\.attn1\.to_q\.weight|attention\.query_key_value\.weight": "a full model, not a LoRA",
    r"down_blocks|up_blocks|mid_block|decoder\.up": "a VAE or a model with a UNet, or a LoRA for one",
    r"encoder\.block\.|shared\.weight": "a text encoder",
}


@dataclass(frozen=True)
class LoRAKey:
    """A parsed tensor name: the layer's name in diffusers, and the tensor's role."""

    layer: str
    role: Literal["down", "up", "alpha"]
    is_sat: bool = False


def parse_key(name: str) -> LoRAKey | None:
    """Parse the name of a tensor in a LoRA for CogVideoX; return None if it is not one."""
    if match := _SAT_FACTOR.fullmatch(name):
        layers, index = _SAT_LAYERS.get(match["layer"], ()), int(match["index"])
        if index >= len(layers):
            return None
        return LoRAKey(f"transformer_blocks.{match['n']}.{layers[index]}", _role(match["role"]), is_sat=True)
    if match := _FACTOR.fullmatch(name):
        layer = _layer_name(match["layer"])
        return None if layer is None else LoRAKey(layer, _role(match["role"]))
    if match := _ALPHA.fullmatch(name):
        layer = _layer_name(match["layer"])
        return None if layer is None else LoRAKey(layer, "alpha")
    return None


def is_base_weight(name: str) -> bool:
    """Return whether a tensor of a SAT checkpoint belongs to the base model, not to the LoRA."""
    return re.search(r"\.matrix_[AB]\.|lora", name) is None


def guess_contents(names: Iterable[str]) -> str | None:
    """Describe the likely contents of a file with these tensor names; return None if unknown."""
    names = list(names)
    for pattern, description in _DESCRIPTIONS.items():
        if any(re.search(pattern, name) for name in names):
            return description
    return None


def _role(name: str) -> Literal["down", "up"]:
    return "down" if name in ("A", "down") else "up"


def _layer_name(name: str) -> str | None:
    """Return the diffusers name of a layer of CogVideoX; None if no layer has this name."""
    name = _WRAPPER.sub("", name)
    while match := _PREFIX.match(name):
        name = name[match.end() :]
    if name.endswith("attn1.to_out"):  # name from before `to_out` became a sequence with dropout
        name += ".0"
    for dotted, underscored, template in _layer_patterns():
        if match := dotted.fullmatch(name) or underscored.fullmatch(name):
            return match.expand(template)
    return None


@lru_cache
def _layer_patterns() -> list[tuple[re.Pattern[str], re.Pattern[str], str]]:
    """Return patterns for each layer's name, with dots and with underscores, and a template of its diffusers name.

    Norms are included; `add_lora` rejects LoRAs of norms.
    """
    names = [
        name
        for rule in diffusers_keymap(TransformerConfig())
        for name in rule.external
        if name.endswith((".*", ".weight"))
    ]
    patterns = []
    for name in dict.fromkeys(name.removesuffix(".*").removesuffix(".weight") for name in names):
        dotted = re.escape(name).replace(r"\{n\}", r"(\d+)")
        patterns.append((re.compile(dotted), re.compile(dotted.replace(r"\.", "_")), name.replace("{n}", r"\1")))
    return patterns
