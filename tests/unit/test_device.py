"""Computations that avoid float64 or run on the CPU because of the device, tested with tensors on the meta device."""

import os

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cogvideox.device import choose_device, deterministic_algorithms, full_precision_convolutions
from cogvideox.dtype import widest_float
from cogvideox.errors import UserError
from cogvideox.text.encoder import position_buckets
from cogvideox.transformer.position import positions_for, rotate
from cogvideox.transformer.presets import PRESETS
from cogvideox.vae.inference import group_stats

META = torch.device("meta")


class NoFloat64(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        created = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(created):
            if isinstance(tensor, torch.Tensor) and tensor.device == META and tensor.dtype == torch.float64:
                raise TypeError(f"{func} creates float64")
        return created


@pytest.mark.parametrize("kinds", [("cuda", "mps"), ("xpu", "mps"), ("mps",), ()])
def test_auto_selects_the_first_available_kind_of_gpu(kinds, monkeypatch):
    """No such device is needed: only the selection is tested."""
    for kind, module in (("cuda", torch.cuda), ("xpu", torch.xpu), ("mps", torch.backends.mps)):
        monkeypatch.setattr(module, "is_available", lambda kind=kind: kind in kinds)
    assert choose_device("auto").type == (*kinds, "cpu")[0]
    with pytest.raises(UserError, match=", ".join(["cpu", *(kind for kind in kinds if kind != "cuda")])):
        choose_device("warp")


def test_rotary_positions_without_complex_numbers(monkeypatch):
    """Apple GPUs use the real arithmetic of compiled code."""
    x, rope = torch.randn(1, 5, 2, 8), torch.randn(5, 4, 2)
    expected = rotate(x, rope)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(rotate(x, rope), expected)


def test_float32_convolutions_are_not_tf32():
    cudnn = torch.backends.cudnn
    assert cudnn.allow_tf32
    with full_precision_convolutions(torch.bfloat16):
        assert cudnn.allow_tf32
    with full_precision_convolutions(torch.float32):
        with full_precision_convolutions(torch.float32):
            pass
        assert not cudnn.allow_tf32
    assert cudnn.allow_tf32


def test_deterministic_algorithms_restores_the_settings(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    with deterministic_algorithms():
        assert torch.are_deterministic_algorithms_enabled() and torch.is_deterministic_algorithms_warn_only_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("preset", ["2b", "5b"])
def test_positions_need_no_float64_on_the_device(preset):
    with NoFloat64():
        positions_for(PRESETS[preset](), 2, 4, 6, device=META)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms_of_strips_need_no_float64_on_mps(dtype, monkeypatch):
    assert (widest_float(torch.device("mps")), widest_float(torch.device("cuda"))) == (torch.float32, torch.float64)
    strips = [torch.empty(1, 4, 2, rows, 5, device=META, dtype=dtype) for rows in (3, 2)]
    with NoFloat64(), pytest.raises(TypeError, match="creates float64"):
        group_stats.group_moments(strips, 2)
    monkeypatch.setattr(group_stats, "widest_float", lambda device: torch.float32)
    with NoFloat64():
        mean, variance = group_stats.group_moments(strips, 2)
    assert mean.dtype == variance.dtype == torch.float32


def test_buckets_are_computed_on_the_cpu_once(monkeypatch):
    devices, log = [], torch.log
    monkeypatch.setattr(torch, "log", lambda x: devices.append(x.device.type) or log(x))
    first, second = (position_buckets(37, 32, 128, META) for _ in range(2))
    assert first is second and first.device == META and devices == ["cpu"]
    with torch.inference_mode():
        assert not position_buckets(38, 32, 128, torch.device("cpu")).is_inference()
