"""What other programs call the tensors of a LoRA, and what a file without one for CogVideoX seems to be.

A name without the parts that wrappers and programs put before it, for queries of the first block:

| written by                                          | name                                                         |
|-----------------------------------------------------|--------------------------------------------------------------|
| diffusers, peft, the official trainer, finetrainers | `transformer_blocks.0.attn1.to_q.lora_A.weight`              |
| ComfyUI; SAT's export                               | the same                                                     |
| older diffusers                                     | `transformer_blocks.0.attn1.to_q.lora.down.weight`           |
| diffusers before peft                               | `transformer_blocks.0.attn1.processor.to_q_lora.down.weight` |
| kohya's programs, VideoX-Fun                        | `transformer_blocks_0_attn1_to_q.lora_down.weight`           |
| SAT, beside the weights of the base                 | `layers.0.attention.query_key_value.matrix_A.0`              |
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from cogvideox.transformer.config import TransformerConfig
from cogvideox.transformer.weights import keymap

_FACTOR = re.compile(r"(?P<layer>.+?)[._](?:lora|lora_linear_layer)[._](?P<role>A|B|down|up)(?:(?:\.[\w-]+)?\.weight)?")
_ALPHA = re.compile(r"(?P<layer>.+?)(?:\.lora(?:_A|_B|_down|_up)?)?\.alpha")
_SAT_FACTOR = re.compile(r"(?:.*\.)?layers\.(?P<n>\d+)\.(?P<layer>.+)\.matrix_(?P<role>[AB])\.(?P<index>\d+)")

_BEFORE = re.compile(
    r"(?:base_model\.model|model|module|pipe|dit|diffusion_model|transformer)\.|lora_(?:unet|transformer)_+"
)
_WITHIN = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|processor)\.")

_SAT_LAYERS = {
    "attention.query_key_value": ("attn1.to_q", "attn1.to_k", "attn1.to_v"),
    "attention.dense": ("attn1.to_out.0",),
    "mlp.dense_h_to_4h": ("ff.net.0.proj",),
    "mlp.dense_4h_to_h": ("ff.net.2",),
}

# The first pattern that some name fits says what the file seems to be.
_SEEMS = {
    r"lora_magnitude_vector|dora_scale": "a DoRA, which scales whole rows beside its low-rank part",
    r"lokr_|hada_": "a LoKr or LoHa, which is another kind of change than a low-rank one",
    r"lora_te|text_encoder|text_model": "a LoRA of a text encoder",
    r"[qkvo]_proj": "a language model's, or a LoRA for one",
    r"[._](?:self_attn|cross_attn)[._][qkvo][._]": "a LoRA for Wan",
    r"single_(?:transformer_)?blocks|double_blocks": "a LoRA for Flux or HunyuanVideo",
    r"attn2[._].*(?:lora|alpha)": "a LoRA for Stable Diffusion, LTX-Video or another model with cross-attention",
    r"transformer_blocks\.\d+\.attn1\.to_q\.weight|attention\.query_key_value\.weight": "a whole model, not a LoRA",
    r"down_blocks|up_blocks|mid_block|decoder\.up": "a VAE or a model with a UNet, or a LoRA for one",
    r"encoder\.block\.|shared\.weight": "a text encoder",
}


@dataclass(frozen=True)
class LoRAKey:
    """Whose tensor it is: the layer's name in diffusers, and what it is to the layer."""

    layer: str
    role: Literal["down", "up", "alpha"]
    is_sat: bool = False


def parse_key(name: str) -> LoRAKey | None:
    """The place of a tensor in a LoRA for CogVideoX, from its name in a file; None where it has none."""
    if found := _SAT_FACTOR.fullmatch(name):
        layers, index = _SAT_LAYERS.get(found["layer"], ()), int(found["index"])
        if index >= len(layers):
            return None
        return LoRAKey(f"transformer_blocks.{found['n']}.{layers[index]}", _role(found["role"]), is_sat=True)
    if found := _FACTOR.fullmatch(name):
        layer = _layer(found["layer"])
        return None if layer is None else LoRAKey(layer, _role(found["role"]))
    if found := _ALPHA.fullmatch(name):
        layer = _layer(found["layer"])
        return None if layer is None else LoRAKey(layer, "alpha")
    return None


def is_base_weight(name: str) -> bool:
    """Whether a tensor in a checkpoint of SAT is a weight of the base, and not one of what was laid over it."""
    return re.search(r"\.matrix_[AB]\.|lora", name) is None


def guess_contents(names: Iterable[str]) -> str | None:
    """What a file with tensors of these names seems to be, in words; None where nothing is known of them."""
    names = list(names)
    for pattern, is_a in _SEEMS.items():
        if any(re.search(pattern, name) for name in names):
            return is_a
    return None


def _role(word: str) -> Literal["down", "up"]:
    return "down" if word in ("A", "down") else "up"


def _layer(name: str) -> str | None:
    """diffusers' name of a layer of CogVideoX; None where there is none of that name."""
    name = _WITHIN.sub("", name)
    while found := _BEFORE.match(name):
        name = name[found.end() :]
    if name.endswith("attn1.to_out"):  # before it was a sequence, whose second element was dropout
        name += ".0"
    for dotted, underscored, template in _layers():
        if found := dotted.fullmatch(name) or underscored.fullmatch(name):
            return found.expand(template)
    return None


@lru_cache
def _layers() -> list[tuple[re.Pattern[str], re.Pattern[str], str]]:
    """All that has a weight, as the table of names calls it: with dots, with underscores in their place, to fill in.

    Norms are among them, of which there can be no LoRA; laying one over a model then says so.
    """
    names = [name for rule in keymap(TransformerConfig()) for name in rule.external if name.endswith((".*", ".weight"))]
    layers = []
    for name in dict.fromkeys(name.removesuffix(".*").removesuffix(".weight") for name in names):
        dotted = re.escape(name).replace(r"\{n\}", r"(\d+)")
        layers.append((re.compile(dotted), re.compile(dotted.replace(r"\.", "_")), name.replace("{n}", r"\1")))
    return layers
