"""Merging of LoRAs into the weight of a linear layer, and restoring the original weight."""

import torch
from torch import nn

from cogvideox.transformer.lora.layers import LoRALinear


@torch.no_grad()
def update_merged_weight(layer: LoRALinear) -> None:
    """Recompute the weight from the original weight and the merged LoRAs, summed in float32 and rounded once."""
    weight = layer.weight.data if layer.original is None else layer.original.to(layer.weight)
    merged = [lora.combined_factors() for lora in layer.lora_modules() if lora.merged]
    layer.original = None
    if merged:
        layer.original = weight.cpu()  # a copy may not fit on the GPU
        total = weight.float()
        for down, up in merged:
            total = torch.addmm(total, up.float(), down.float())
        weight = total.to(weight.dtype)
    layer.weight.data = weight


def make_merge_permanent(layer: LoRALinear) -> None:
    """Drop the original weight, so that merged LoRAs can no longer be removed."""
    layer.original = None
    layer.loras = nn.ModuleList(lora for lora in layer.lora_modules() if not lora.merged)
