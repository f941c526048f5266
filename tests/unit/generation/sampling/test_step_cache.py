"""Step caching: what it computes, what it answers with, and that a generation with it can be made again."""

import numpy as np
import pytest
import torch

from cogvideox.diffusion.schedule import Schedule
from cogvideox.diffusion.timesteps import trailing
from cogvideox.errors import UserError
from cogvideox.generation.memory import default_demand
from cogvideox.generation.pipeline import CogVideoX
from cogvideox.generation.request.builder import complete
from cogvideox.generation.sampling import denoise as module
from cogvideox.generation.sampling.conditioning import Given
from cogvideox.generation.sampling.denoise import Texts
from cogvideox.generation.sampling.step_cache import Cached
from cogvideox.parallel.mesh import Ranks
from cogvideox.pretrained.offload.hardware import detect_hardware
from cogvideox.pretrained.offload.placement import profile_model
from cogvideox.pretrained.offload.planner import estimate_plan
from cogvideox.pretrained.offload.vae_cost import VAEMemoryMode
from cogvideox.transformer.lora import inject
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


def along(values):
    """A network whose velocity has that value at each step, and the times of it."""
    return lambda x, texts, i: values[i] * torch.ones(len(texts), *x.shape[1:])


def answers(net, budget):
    cached = Cached(net, TIMES, Schedule(), budget)
    found = [cached(X, BOTH, i).flatten()[0].item() for i in range(len(TIMES))]
    return found, cached


def test_what_goes_on_evenly_is_foretold():
    """Two velocities tell how it goes, a third that it goes on so, a fourth that this is exact."""
    angles = Cached(turning(0.0, []), TIMES, Schedule(), 0.0).angles
    values = [1 + angle for angle in angles]
    found, cached = answers(along(values), 1e-4)
    assert cached.num_computed == 4 and found == pytest.approx(values[:20], rel=1e-5)


def test_what_goes_to_and_fro_is_used_again():
    values = [1 + 0.01 * (-1) ** i for i in range(20)]
    found, cached = answers(along(values), 0.005)
    assert cached.num_computed < 20 and {round(value, 4) for value in found} == {0.99, 1.01}


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


class Watched(Cached):
    """Keeps the steps at which it is asked."""

    def __init__(self, *of):
        super().__init__(*of)
        self.asked = []

    def __call__(self, x, texts, i):
        self.asked.append(i)
        return super().__call__(x, texts, i)


@pytest.fixture
def made(monkeypatch):
    """The caches of the generations, in order."""
    caches = []
    monkeypatch.setattr(module, "Cached", lambda *of: caches.append(Watched(*of)) or caches[-1])
    return caches


@pytest.mark.parametrize("variant", ["2b", "1.5-5b-i2v"])
@pytest.mark.parametrize("sampler", ["ddim", "dpm++"])
def test_a_generation(pipes, clip, variant, sampler, made):
    """All steps without a budget, fewer with one; sequential guidance makes the same, and so does the replay."""
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


@pytest.mark.parametrize(
    ("variant", "num_caches", "values"),
    [
        ("2b", 1, {"guidance_scale": 1.0}),
        ("2b", 1, {"sequential_guidance": True}),
        ("5b", 1, {"guidance_interval": (0.25, 0.75)}),
        ("5b", 3, {"num_frames": 17, "window": 9}),
        ("2b", 2, {"video": True, "extend": True, "num_frames": 17, "window": 9}),
        ("2b", 1, {"video": True, "strength": 0.9}),
        ("5b", 1, {"video": True, "invert": True}),
        ("1.5-5b-i2v", 2, {"image": True, "num_frames": 17, "window": 9}),
    ],
)
def test_nothing_is_remembered_from_one_to_the_next(pipes, clip, variant, num_caches, values, made):
    """Each window and each video has a cache of its own, of one run of the sampler; so that every video is the one that
    its seed makes alone, whatever was made before it."""
    given = {"image": clip[0], "video": clip[:9]}
    values = {name: given.get(name, value) for name, value in values.items()}
    values = {"num_frames": 9, "num_inference_steps": 6, **values}
    pipe = pipes[variant]
    exact = pipe.generate(PROMPT, **values, seed=3, cache=0.0)
    assert (exact.frames == pipe.generate(PROMPT, **values, seed=3).frames).all()
    num_steps = len(made[0].asked)
    assert all(one.num_computed == num_steps for one in made)
    made.clear()

    pair = pipe.generate(PROMPT, **values, seed=3, cache=1.0, num_videos=2)
    assert len(made) == 2 * num_caches
    assert all(one.asked == list(range(num_steps)) for one in made)
    assert all(2 <= one.num_computed < num_steps for one in made)
    for video, seed in reversed(list(zip(pair, (3, 4)))):
        assert (pipe.generate(PROMPT, **values, seed=seed, cache=1.0).frames == video.frames).all()


def test_streamed_from_disk_and_under_a_lora(pipes, made):
    """The same steps are computed, and the same video comes out, wherever the weights lie."""
    spec, values = pipes["5b"].spec, {"num_inference_steps": 6, "seed": 0, "cache": 1.0}
    adapter = inject.create_lora(pipes["5b"].bundle.transformer, torch.Generator().manual_seed(0), rank=2)
    for factors in adapter.layers.values():
        factors.up.normal_(generator=torch.Generator().manual_seed(1))
    machine = detect_hardware(torch.device("cpu"), "float32", measured=False)
    strategies = ("group_offload", "group_offload")
    plan = estimate_plan(profile_model(spec), default_demand(spec), machine, strategies, VAEMemoryMode())
    resident, streamed = CogVideoX.from_pretrained(spec, "cpu"), CogVideoX.from_pretrained(spec, "cpu", memory=plan)
    found = []
    for pipe in (resident, streamed):
        before = pipe.generate(PROMPT, **values).frames
        pipe.load_lora(adapter)
        with_it = pipe.generate(PROMPT, **values).frames
        pipe.unload_lora()
        assert (pipe.generate(PROMPT, **values).frames == before).all() and (with_it != before).any()
        found.append((before, with_it))
    assert np.array_equal(*found)
    computed = [one.num_computed for one in made]
    assert computed[:3] == computed[3:] and max(computed) < 6


def test_over_ranks_it_is_refused(pipes):
    pipe = pipes["2b"]
    request = complete(pipe.spec, PROMPT, cache=0.1)
    values = {"device": pipe.device, "dtype": pipe.dtype, "report": print, "ranks": object.__new__(Ranks)}
    with pytest.raises(UserError, match="one process"):
        module.denoise(pipe.bundle, request, 9, Texts(torch.zeros(1, 1, 1)), Given(), torch.Generator(), **values)
