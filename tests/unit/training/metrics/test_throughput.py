"""FLOPs of a training step and the peak of devices."""

import pytest
import torch

from cogvideox.hardware.gpus import gpu_rates
from cogvideox.pretrained.offload.transformer_cost import BatchShape
from cogvideox.records import PackedBatch
from cogvideox.training.metrics.throughput import batch_shapes, peak_flops, step_flops
from cogvideox.transformer.presets import PRESETS


def test_a_training_step_costs_three_forward_passes():
    """One clip of 49 frames of 480x720: 996.6 TFLOP with the 5B (as counted by torch on diffusers' model)."""
    config, clip = PRESETS["5b"](), BatchShape(1, 13, 60, 90, 226)
    assert sum(step_flops(config, [clip])) == pytest.approx(996.6e12, rel=1e-3)
    assert sum(step_flops(config, [clip, clip])) == pytest.approx(2 * 996.6e12, rel=1e-3)
    linear, attention = step_flops(config, [clip])
    assert step_flops(config, [clip], all_weights=False) == (pytest.approx(linear * 2 / 3), attention)
    assert step_flops(config, []) == (0, 0)


def test_shapes_of_packed_rows():
    latents = tuple(torch.zeros(4, *size) for size in ((1, 4, 6), (3, 2, 2)))
    row = PackedBatch(latents, latents, torch.zeros(2, 7, 16), torch.zeros(2, dtype=torch.long), ("a", "b"))
    assert batch_shapes([row, row]) == [BatchShape(1, 1, 4, 6, 7), BatchShape(1, 3, 2, 2, 7)] * 2


def test_peak_flops():
    assert peak_flops(torch.device("cpu")) is None
    assert gpu_rates("NVIDIA H100 80GB HBM3", "float32").peak == 989e12
    assert gpu_rates("NVIDIA A10", "bfloat16").peak == 125e12
    assert gpu_rates("NVIDIA GH200 480GB", "bfloat16").transfer == 100e9  # not those of the H200 in its name
    assert gpu_rates("Voodoo 2", "bfloat16").peak is None
