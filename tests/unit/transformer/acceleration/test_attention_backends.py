import itertools
import time
from contextlib import nullcontext
from unittest.mock import MagicMock

import torch
from torch._subclasses import FakeTensorMode

from cogvideox.hardware.cpu_probe import CPUProbe, KernelRates, fixed_probe
from cogvideox.transformer.acceleration import attention_backends
from cogvideox.transformer.acceleration.attention_backends import (
    attend_with,
    fastest_backend,
    median_times,
    record_backends,
)
from cogvideox.transformer.acceleration.cuda_graphs import GraphedFunction, _capture_stream, _RecordedGraph
from cogvideox.transformer.attention import StreamLayout, dense_attention


def test_cpu_has_the_default_backend_and_no_graphs():
    kernel = fastest_backend(2, 16, 1, torch.float32, torch.device("cpu"))
    assert kernel.attend is dense_attention and str(kernel) == "default" and kernel.milliseconds == {}

    def double(x: torch.Tensor) -> torch.Tensor:
        return 2 * x

    graphed = GraphedFunction(double)
    assert torch.equal(graphed(torch.ones(3)), torch.full((3,), 2.0)) and not graphed.graphs


def test_the_probe_selects_the_kernel_of_large_models_on_a_cpu():
    """In float32, small models such as the shipped one do not depend on a measurement."""
    cpu = torch.device("cpu")
    rates = {"float32": KernelRates(1e11, 1e11, 1e11, 2e11), "bfloat16": KernelRates(1e11, 1e11, 2e11, 1e11)}
    with fixed_probe(CPUProbe("test", rates)), torch.inference_mode():
        assert str(fastest_backend(2, 16, 1, torch.float32, cpu)) == "default"
        assert str(fastest_backend(30, 16, 1, torch.bfloat16, cpu)) == "default"
        assert str(fastest_backend(30, 16, 1, torch.float16, cpu)) == "default"
        kernel = fastest_backend(30, 16, 1, torch.float32, cpu)
        assert str(kernel) == "blocked"
        for num_tokens in (6, 150):
            heads, layout = [torch.randn(1, num_tokens, 2, 16) for _ in range(3)], StreamLayout((2, num_tokens - 2))
            torch.testing.assert_close(kernel.attend(*heads, layout), dense_attention(*heads, layout))


def test_named_backend_equals_dense_attention():
    heads = [torch.randn(1, 6, 2, 16) for _ in range(3)]
    assert attend_with("flash") is attend_with("flash")
    torch.testing.assert_close(
        attend_with("flash")(*heads, StreamLayout((2, 4))), dense_attention(*heads, StreamLayout((2, 4)))
    )


def test_warm_up_is_not_measured(monkeypatch):
    """The first calls are slow, and later times increase slightly."""
    monkeypatch.setattr(attention_backends, "_WARM_UP", 0.02)
    count, start = itertools.count(), time.perf_counter()

    def call(milliseconds: float) -> float:
        warm_up = 50.0 if time.perf_counter() - start < 0.01 else 0.0
        return milliseconds + warm_up + 1e-6 * next(count)

    actual = median_times({"fast": lambda: call(1.0), "slow": lambda: call(1.2)})
    assert actual["fast"] < actual["slow"] < 50
    assert median_times({}) == {}


def test_backends_in_use_are_recorded():
    shape = 2, 16, 1, torch.float32, torch.device("cpu")
    fastest_backend(*shape)
    with record_backends() as outer:
        with record_backends() as inner:
            fastest_backend(*shape)
        assert (outer, inner) == (set(), {"default"})


STREAM = torch.cuda.Stream


def test_each_device_has_its_own_capture_stream(monkeypatch):
    """PyTorch's default capture stream belongs to the first device and records no work of other devices."""
    devices, captured = [torch.device("cuda", i) for i in range(2)], []

    def stream(device: torch.device) -> MagicMock:
        return MagicMock(spec=STREAM, device=device)

    monkeypatch.setattr(torch.cuda, "Stream", stream)
    monkeypatch.setattr(torch.cuda, "current_stream", stream)
    monkeypatch.setattr(torch.cuda, "stream", nullcontext)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph, stream: captured.append(stream) or nullcontext())
    _capture_stream.cache_clear()
    for device in [*devices, devices[0]]:
        with FakeTensorMode():
            _RecordedGraph(lambda x: x, (torch.empty(3, device=device),))
    assert [stream.device for stream in captured] == [*devices, devices[0]]
    assert captured[0] is captured[2]
    _capture_stream.cache_clear()
