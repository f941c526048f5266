"""The setup is chosen before weights are read; unavailable acceleration is an error."""

import inspect
from dataclasses import fields

import numpy as np
import pytest

from cogvideox.errors import UserError
from cogvideox.generation.pipeline import CogVideoX
from cogvideox.generation.request.request import LoadOptions
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


def test_float8_needs_a_gpu_and_unchanged_weights(pipes):
    spec = pipes["2b"].spec
    with pytest.raises(UserError, match=r"NVIDIA Ada, Hopper or newer\), and device='cpu' has none: leave it out"):
        CogVideoX.from_pretrained(spec, "cpu", float8=True)
    with pytest.raises(UserError, match="float8 needs unquantized weights that stay on the device"):
        CogVideoX.from_pretrained(spec, "cpu", float8=True, weights="fp8")


def test_float8_is_recorded_in_the_metadata(pipes):
    """FP8 is emulated, as on any device without FP8 support."""
    pipe = CogVideoX.from_pretrained(pipes["5b"].spec, "cpu")
    exact = pipe.generate("a red ball", seed=1)
    to_float8(pipe.model.transformer)
    rounded = pipe.generate("a red ball", seed=1)
    assert "float8" not in exact.metadata and rounded.metadata["float8"] is True
    error = np.abs(exact.frames.astype(int) - rounded.frames)
    assert error.any() and error.mean() < 5
