"""The probe of the CPU: measured once, cached in a file, replaceable; and the kernels that it compares."""

import json
from dataclasses import asdict, replace
from itertools import chain

import pytest
import torch
import torch.nn.functional as F

from cogvideox.hardware import cpu_probe as module
from cogvideox.hardware.blocked_attention import blocked_attention
from cogvideox.hardware.cpu_probe import (
    CPUProbe,
    KernelRates,
    cache_file,
    cpu_clock,
    cpu_probe,
    fixed_probe,
    known_probe,
    measure,
)
from cogvideox.hardware.onednn import ONEDNN_DTYPES, onednn_linear

FAST = CPUProbe(
    "test", {"float32": KernelRates(1e11, 1e11, 1e11, 1e11), "bfloat16": KernelRates(2e11, 2e11, 1e11, 2e11)}
)


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COGVIDEOX_CACHE", str(tmp_path / "cache"))
    module._probes.clear()
    yield
    module._probes.clear()


def test_the_probe_is_measured_once_and_cached(empty_cache, monkeypatch):
    monkeypatch.setattr(module, "_AGREEMENT", float("inf"))
    assert known_probe() is None
    first = cpu_probe()
    rates = [rate for kernels in first.rates.values() for rate in asdict(kernels).values()]
    assert min(rates) > 1e6 and "float32" in first.rates
    assert ("bfloat16" in first.rates) == (module.IS_X86 and torch.bfloat16 in ONEDNN_DTYPES)
    module._probes.clear()
    monkeypatch.setattr(module, "measure", lambda: pytest.fail("measured again"))
    assert cpu_probe() == known_probe() == first


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"cpu": "x", "rates": {}}', '{"cpu": "x", "rates": {"float32": 3}}']
)
def test_a_damaged_cache_is_replaced(empty_cache, monkeypatch, content):
    monkeypatch.setattr(module, "measure", lambda: FAST)
    file = cache_file(torch.get_num_threads())
    file.parent.mkdir(parents=True)
    file.write_text(content)
    assert cpu_probe() == FAST
    assert json.loads(file.read_text())["rates"]["bfloat16"]["linear"] == 2e11


def test_an_unwritable_cache_is_ignored(empty_cache, monkeypatch, tmp_path):
    (tmp_path / "cache").write_text("a file, not a folder")
    monkeypatch.setattr(module, "measure", lambda: FAST)
    assert cpu_probe() == FAST


def test_a_result_that_varies_is_used_but_not_cached(empty_cache, monkeypatch):
    busy = replace(FAST, is_steady=False)
    monkeypatch.setattr(module, "measure", lambda: busy)
    assert cpu_probe() is busy and cpu_probe() is busy
    assert known_probe() is busy and not cache_file(torch.get_num_threads()).exists()
    module._probes.clear()
    assert known_probe() is None


@pytest.mark.parametrize(
    ("durations", "max_seconds", "is_steady"),
    [([8.0, 4.0, 2.0, 1.0, 1.0], 1e6, True), ([1.0, 2.0], 0.0, False)],
    ids=["the last two agree", "none agree"],
)
def test_measurements_are_repeated_until_the_two_shortest_times_agree(monkeypatch, durations, max_seconds, is_steady):
    """All kernels have the same duration in a round. The first round is not timed to the end."""
    num_kernels = 4
    starts_and_ends = chain(*([0.0, seconds] * num_kernels for seconds in durations))
    times = chain([0.0] * num_kernels, starts_and_ends)
    for name, value in {"_ROUNDS": 2, "_SECONDS": 0.0, "_MAX_SECONDS": max_seconds}.items():
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(module, "ONEDNN_DTYPES", frozenset({torch.float32}))
    monkeypatch.setattr(module, "cpu_clock", lambda: next(times))
    probe = measure()
    assert probe.is_steady == is_steady and not list(times)
    assert probe.rates["float32"].linear == 2.0 * 512 * 768**2 / min(durations)


def test_a_fixed_probe_replaces_the_measurement():
    with fixed_probe(FAST):
        assert cpu_probe() is FAST and known_probe() is FAST
    assert cpu_probe() is not FAST
    assert FAST.supports("bfloat16") and not FAST.supports("float16")
    assert FAST.rates["bfloat16"].prefers_blocks and not FAST.rates["float32"].prefers_blocks
    assert str(FAST).startswith("float32 100 / 100 / 100, bfloat16 200 / 200 / 200 GFLOP/s")


def test_a_measurement_lists_only_dtypes_with_fast_kernels(monkeypatch):
    monkeypatch.setattr(module, "ONEDNN_DTYPES", frozenset({torch.float32}))
    monkeypatch.setattr(module, "_ROUNDS", 1)
    monkeypatch.setattr(module, "_SECONDS", 0.0)
    probe = measure()
    assert list(probe.rates) == ["float32"] and "no fast bfloat16" in str(probe)


def test_the_clock_depends_on_the_number_of_threads_only(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(module.time, "process_time", lambda: 1.0)
    monkeypatch.setattr(module.time, "perf_counter", lambda: 2.0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert cpu_clock() == 1.0
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert cpu_clock() == 2.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("num_tokens", [5, 700])
def test_blocked_attention_is_as_accurate_as_pytorch(dtype, num_tokens):
    qkv = [torch.randn(2, num_tokens, 3, 16).mul(2).to(dtype) for _ in range(3)]
    exact, pytorch = (
        F.scaled_dot_product_attention(*(x.transpose(1, 2).to(kind) for x in qkv)).transpose(1, 2).double()
        for kind in (torch.float64, dtype)
    )
    blocked = blocked_attention(*qkv)
    assert blocked.dtype == dtype and blocked.is_contiguous()
    error, pytorch_error = ((x.double() - exact).norm() / exact.norm() for x in (blocked, pytorch))
    assert error <= 1.3 * pytorch_error + 1e-6


def test_blocked_attention_with_other_numbers_of_keys():
    q, k, v = torch.randn(1, 300, 2, 16), torch.randn(1, 7, 2, 16), torch.randn(1, 7, 2, 16)
    expected = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)
    torch.testing.assert_close(blocked_attention(q, k, v), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_onednn_linear_equals_pytorch(dtype):
    x, weight, bias = torch.randn(3, 7).to(dtype), torch.randn(5, 7).to(dtype), torch.randn(5).to(dtype)
    expected = F.linear(x.double(), weight.double(), bias.double())
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-2, "atol": 3e-2}
    torch.testing.assert_close(onednn_linear(x, weight, bias).double(), expected, **tolerance)
    gelu = F.gelu(expected, approximate="tanh")
    torch.testing.assert_close(onednn_linear(x, weight, bias, gelu=True).double(), gelu, **tolerance)
