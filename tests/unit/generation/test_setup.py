"""The setup is chosen before weights are read; unavailable acceleration is an error."""

import inspect
from dataclasses import fields

import numpy as np
import pytest
import torch

from cogvideox import config
from cogvideox.errors import UserError
from cogvideox.generation import setup
from cogvideox.generation.pipeline import CogVideoX
from cogvideox.generation.request.request import LoadOptions
from cogvideox.generation.request.sidecar import Sidecar, repeat_with_changes
from cogvideox.hardware.cpu_probe import CPUProbe, KernelRates, fixed_probe
from cogvideox.transformer.acceleration.float8 import to_float8


def test_from_pretrained_has_the_declared_options():
    signature = inspect.signature(CogVideoX.from_pretrained).parameters
    assert {field.name: field.default for field in fields(LoadOptions)} == {
        name: parameter.default for name, parameter in signature.items() if name != "ranks"
    }


def test_compile_on_a_cpu_needs_a_compiler(pipes, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match="no-such-compiler"):
        CogVideoX.from_pretrained(pipes["2b"].spec, "cpu", compile=True)


def test_an_explicit_dtype_is_used_and_recorded_on_a_cpu(pipes):
    spec, slow = pipes["2b"].spec, KernelRates(*[1e10] * 4)
    fast = KernelRates(*[1e11] * 4)
    with fixed_probe(CPUProbe("test", {"float32": fast, "bfloat16": slow})), pytest.warns(match="bfloat16 is slower"):
        pipe = CogVideoX.from_pretrained(spec, "cpu", "bfloat16")
    video = pipe.generate("a red ball", seed=1)
    assert video.metadata["dtype"] == "bfloat16" and pipe.dtype == torch.bfloat16
    assert np.array_equal(video.frames, pipe.generate("a red ball", seed=1).frames)
    exact = CogVideoX.from_pretrained(spec, "cpu").generate("a red ball", seed=1)
    assert exact.metadata["dtype"] == "float32"
    assert 0 < np.abs(exact.frames.astype(int) - video.frames).mean() < 5
    sidecar = config.from_dict(Sidecar, video.metadata)
    assert repeat_with_changes(sidecar, {}, {})[1].dtype == "bfloat16"


def test_float8_needs_a_gpu_and_unchanged_weights(pipes):
    spec = pipes["2b"].spec
    with pytest.raises(UserError, match=r"NVIDIA Ada, Hopper or newer\), and device='cpu' has none: leave it out"):
        CogVideoX.from_pretrained(spec, "cpu", float8=True)
    with pytest.raises(UserError, match="float8 needs unquantized weights that stay on the device"):
        CogVideoX.from_pretrained(spec, "cpu", float8=True, weights="fp8")


def test_int8_is_recorded_and_needs_a_cpu_that_supports_it(pipes, monkeypatch):
    spec = pipes["2b"].spec
    monkeypatch.setattr(setup, "HAS_INT8_ARITHMETIC", True)
    rounded = CogVideoX.from_pretrained(spec, "cpu", int8_compute=True).generate("a red ball", seed=1)
    exact = CogVideoX.from_pretrained(spec, "cpu").generate("a red ball", seed=1)
    assert "int8_compute" not in exact.metadata and rounded.metadata["int8_compute"] is True
    assert 0 < np.abs(exact.frames.astype(int) - rounded.frames).mean() < 5
    with pytest.raises(UserError, match="int8_compute needs unquantized weights that stay on the device"):
        CogVideoX.from_pretrained(spec, "cpu", int8_compute=True, weights="int8")
    monkeypatch.setattr(setup, "HAS_INT8_ARITHMETIC", False)
    with pytest.raises(UserError, match=r"and this CPU has none: leave it out \(--no-int8-compute\)"):
        CogVideoX.from_pretrained(spec, "cpu", int8_compute=True)


def test_float8_is_recorded_in_the_metadata(pipes):
    """FP8 is emulated, as on any device without FP8 support."""
    pipe = CogVideoX.from_pretrained(pipes["5b"].spec, "cpu")
    exact = pipe.generate("a red ball", seed=1)
    to_float8(pipe.model.transformer)
    rounded = pipe.generate("a red ball", seed=1)
    assert "float8" not in exact.metadata and rounded.metadata["float8"] is True
    error = np.abs(exact.frames.astype(int) - rounded.frames)
    assert error.any() and error.mean() < 5
