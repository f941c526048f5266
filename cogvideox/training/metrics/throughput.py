"""FLOPs of a training step and peak FLOP/s of the device, for model FLOPs utilization (MFU)."""

from collections.abc import Iterable

import torch

from cogvideox.hardware.gpus import gpu_rates
from cogvideox.pretrained.offload.transformer_cost import BatchShape, transformer_flops
from cogvideox.records import PackedBatch
from cogvideox.transformer.config import TransformerConfig


def peak_flops(device: torch.device) -> float | None:
    """Return the specified peak FLOP/s of a GPU in bfloat16, at any precision of the run; None if unknown or a CPU."""
    if device.type != "cuda":
        return None
    return gpu_rates(torch.cuda.get_device_name(device), "bfloat16").peak


def step_flops(
    config: TransformerConfig, clips: Iterable[BatchShape], *, all_weights: bool = True
) -> tuple[float, float]:
    """Return the FLOPs of the forward and backward passes over clips, in linear layers and in attention.

    The backward pass of a matrix product costs twice its forward pass: once for the gradient of the input, once for the
    gradient of the weights. Recomputation by activation checkpointing is not counted, as usual for MFU.

    Args:
        all_weights: False for LoRA training, in which the gradient of the weights is not computed.
    """
    forward = [transformer_flops(config, clip) for clip in clips]
    linear, attention = (sum(flops) for flops in zip(*forward)) if forward else (0.0, 0.0)
    return (3 if all_weights else 2) * linear, 3 * attention


def batch_shapes(rows: Iterable[PackedBatch]) -> list[BatchShape]:
    """Return the shape of each clip in packed rows."""
    return [
        BatchShape(1, latents.shape[1], latents.shape[2], latents.shape[3], row.text.shape[1])
        for row in rows
        for latents in row.latents
    ]
