"""Step caching: what it computes, what it answers with, and that a generation with it can be made again."""

import numpy as np
import pytest
import torch

from cogvideox.diffusion.schedule import Schedule
from cogvideox.diffusion.timesteps import trailing
from cogvideox.errors import UserError
from cogvideox.generation import denoise as module
from cogvideox.generation.cache import Cached
from cogvideox.generation.conditioning import Given
from cogvideox.generation.denoise import Texts
from cogvideox.generation.prepare import complete
from cogvideox.parallel.mesh import Ranks
from tests import tiny

PROMPT = "a red ball"
TIMES = trailing(20, 1000)
X, BOTH = torch.zeros(1, 2, 1, 2, 2), torch.zeros(2, 3, 4)


def turning(speed, calls):
    """A network whose velocity grows by so much in a step, for the second text ten times as much."""

    def net(x, texts, i):
        calls.append((i, len(texts)))
        grown = torch.tensor([1 + speed * i, 1 + 10 * speed * i])[-len(texts) :]
        return grown.view(-1, 1, 1, 1, 1).expand(-1, *x.shape[1:])

    return net


def computed(speed, budget):
    calls = []
    cached = Cached(turning(speed, calls), TIMES, Schedule(), budget)
    for i in range(len(TIMES)):
        cached(X, BOTH, i)
    assert cached.num_computed == len(calls)
    return [i for i, _ in calls]


def test_a_velocity_that_stays_is_computed_twice():
    assert computed(0.0, 0.0) == [0, 1]


def test_without_a_budget_every_change_is_computed():
    assert computed(0.01, 0.0) == list(range(20))


def test_more_budget_and_less_change_are_fewer_steps():
    assert len(computed(0.01, 0.1)) < len(computed(0.01, 0.01)) < 20
    assert len(computed(0.001, 0.01)) < len(computed(0.01, 0.01))


def test_each_text_gets_its_own_velocity_and_a_missing_one_is_computed():
    calls = []
    still = turning(0.0, calls)
    net = lambda x, texts, i: still(x, texts, i) * torch.arange(3 - len(texts), 3).view(-1, 1, 1, 1, 1)  # noqa: E731
    cached = Cached(net, TIMES, Schedule(), 1.0)
    cached(X, BOTH[1:], 0)
    assert cached(X, BOTH[1:], 1).flatten()[0] == 2
    assert cached(X, BOTH, 2).flatten(1)[:, 0].tolist() == [1, 2]
    assert cached(X, BOTH, 3).flatten(1)[:, 0].tolist() == [1, 2]
    assert cached(X, BOTH[1:], 4).flatten()[0] == 2
    assert calls == [(0, 1), (1, 1), (2, 2)]


@pytest.mark.parametrize("variant", ["2b", "1.5-5b-i2v"])
@pytest.mark.parametrize("sampler", ["ddim", "dpm++"])
def test_a_generation(pipes, clip, variant, sampler, monkeypatch):
    """All steps without a budget, fewer with one; sequential guidance makes the same, and so does the replay."""
    made = []
    monkeypatch.setattr(module, "Cached", lambda *of: made.append(Cached(*of)) or made[-1])
    image = {"image": clip[0]} if variant in tiny.IMAGE_TRANSFORMERS else {}
    values = {**image, "num_frames": 9, "num_inference_steps": 8, "sampler": sampler, "seed": 0}
    pipe = pipes[variant]
    plain = pipe.generate(PROMPT, **values)
    assert "cache" not in plain.metadata
    exact = pipe.generate(PROMPT, **values, cache=0.0)
    cached = pipe.generate(PROMPT, **values, cache=1.0)
    assert (exact.frames == plain.frames).all() and cached.metadata["cache"] == 1
    assert made[0].num_computed == 8 and made[1].num_computed < 8
    halves = pipe.generate(PROMPT, **values, cache=1.0, sequential_guidance=True)
    assert np.abs(halves.frames.astype(int) - cached.frames).max() <= 1
    assert (pipe.generate(PROMPT, **values, cache=1.0).frames == cached.frames).all()


@pytest.mark.parametrize("values", [{"guidance_interval": (0.25, 0.75)}, {"num_frames": 17, "window": 9}])
def test_in_part_of_the_steps_and_in_windows(pipes, values, monkeypatch):
    """Windows do not share what they remember."""
    made = []
    monkeypatch.setattr(module, "Cached", lambda *of: made.append(Cached(*of)) or made[-1])
    values = {"num_inference_steps": 8, "num_frames": 9, "seed": 0, **values}
    exact = pipes["5b"].generate(PROMPT, **values, cache=0.0)
    assert (exact.frames == pipes["5b"].generate(PROMPT, **values).frames).all()
    made.clear()
    pipes["5b"].generate(PROMPT, **values, cache=1.0)
    assert len(made) == len({id(one) for one in made}) > ("window" in values)
    assert all(2 <= one.num_computed < 8 for one in made)


def test_over_ranks_it_is_refused(pipes):
    pipe = pipes["2b"]
    request = complete(pipe.about, PROMPT, cache=0.1)
    values = {"device": pipe.device, "dtype": pipe.dtype, "report": print, "ranks": object.__new__(Ranks)}
    with pytest.raises(UserError, match="one process"):
        module.denoise(pipe.bundle, request, 9, Texts(torch.zeros(1, 1, 1)), Given(), torch.Generator(), **values)
