"""Around the network, what it gives stays the same; `tests/gpu/test_speed.py` sees more of it."""

import numpy as np
import pytest
import torch

from cogvideox.errors import UserError
from cogvideox.generation.pipeline import CogVideoX
from cogvideox.generation.sampling import acceleration
from cogvideox.transformer.model import Transformer
from cogvideox.transformer.position import positions_for
from tests import tiny


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("variant", ["2b", "5b"])
def test_asked_as_it_would_answer(variant, small, monkeypatch):
    monkeypatch.setattr(acceleration, "_SMALL", 2e11 if small else 0)
    torch.manual_seed(0)
    model = Transformer(tiny.TRANSFORMERS[variant]).requires_grad_(False)
    latents, text, times = torch.randn(2, 4, 2, 4, 6), torch.randn(2, 12, 32), torch.tensor([900, 100])
    ask = acceleration.ask(model, positions_for(model.config, 2, 4, 6), 12 + 2 * 2 * 3)
    for step, time in enumerate(times):
        found = ask(latents, text, model.precompute_modulation(times)[step])
        torch.testing.assert_close(found, model(latents, text, time.expand(2)))


def test_blocks_with_hooks_are_not_recorded():
    model = Transformer(tiny.TRANSFORMERS["2b"])
    assert acceleration._recordable(model, 24)
    model.blocks[1].register_forward_pre_hook(lambda block, args: None)
    assert not acceleration._recordable(model, 24)


def test_without_a_compiler(pipes, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match="no-such-compiler"):
        CogVideoX.from_pretrained(pipes["2b"].spec, "cpu", compile=True)


def test_float8_takes_a_gpu_and_weights_that_stay(pipes):
    spec = pipes["2b"].spec
    with pytest.raises(UserError, match="since Ada and Hopper, and device='cpu' does not: leave it out"):
        CogVideoX.from_pretrained(spec, "cpu", float8=True)
    with pytest.raises(UserError, match="float8 is for weights that stay as they are"):
        CogVideoX.from_pretrained(spec, "cpu", float8=True, weights="fp8")


def test_float8_is_told_in_the_metadata(pipes):
    """Emulated, as on any device without such arithmetic."""
    pipe = CogVideoX.from_pretrained(pipes["5b"].spec, "cpu")
    exact = pipe.generate("a red ball", seed=1)
    acceleration.make_faster(pipe.bundle.transformer, compile=False, float8=True)
    rounded = pipe.generate("a red ball", seed=1)
    assert "float8" not in exact.metadata and rounded.metadata["float8"] is True
    error = np.abs(exact.frames.astype(int) - rounded.frames)
    assert error.any() and error.mean() < 5
