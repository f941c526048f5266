"""How much arithmetic a training step is, and how much of it the device could do: model FLOP utilisation (MFU)."""

from collections.abc import Iterable

import torch

from cogvideox.pretrained.offload.hardware import gpu_rates
from cogvideox.pretrained.offload.transformer_cost import BatchShape, transformer_flops
from cogvideox.records import PackedBatch
from cogvideox.transformer.config import TransformerConfig


def peak(device: torch.device) -> float | None:
    """Operations a second that the maker promises of the device in bfloat16, whatever a run computes in; None where
    that is not known, as of CPUs."""
    if device.type != "cuda":
        return None
    return gpu_rates(torch.cuda.get_device_name(device), "bfloat16").peak


def step_flops(
    config: TransformerConfig, clips: Iterable[BatchShape], *, all_weights: bool = True
) -> tuple[float, float]:
    """Operations of the forward and backward passes over clips, in linear layers and in attention. What is computed
    twice to save memory counts once.

    A product is as much work again for the gradient of its input, and once more for that of its weights; where those
    do not learn, as beside a LoRA, that is left out.
    """
    forward = [transformer_flops(config, clip) for clip in clips]
    linear, attention = (sum(parts) for parts in zip(*forward)) if forward else (0.0, 0.0)
    return (3 if all_weights else 2) * linear, 3 * attention


def clips_of(rows: Iterable[PackedBatch]) -> list[BatchShape]:
    """The clips of packed rows, each of its size."""
    return [
        BatchShape(1, latents.shape[1], latents.shape[2], latents.shape[3], row.text.shape[1])
        for row in rows
        for latents in row.latents
    ]
