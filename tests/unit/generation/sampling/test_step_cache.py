"""Step caching: computed steps, velocities of skipped steps, and reproducibility of videos."""

import numpy as np
import pytest
import torch

from cogvideox.diffusion.schedule import Schedule
from cogvideox.diffusion.timesteps import trailing
from cogvideox.errors import UserError
from cogvideox.generation.pipeline import CogVideoX
from cogvideox.generation.prompt_embedding import PromptEmbeddings
from cogvideox.generation.request.builder import complete_request
from cogvideox.generation.sampling import denoise as module
from cogvideox.generation.sampling.conditioning import Conditioning
from cogvideox.generation.sampling.step_cache import StepCache
from cogvideox.generation.workload import default_workload
from cogvideox.parallel.mesh import Ranks
from cogvideox.pretrained.offload.hardware import detect_hardware
from cogvideox.pretrained.offload.memory_planner import estimate_plan
from cogvideox.pretrained.offload.placement import profile_model
from cogvideox.pretrained.offload.vae_cost import VAESlicing
from cogvideox.transformer.lora import inject
from tests import tiny

PROMPT = "a red ball"
TIMES = trailing(20, 1000)
X, PROMPTS = torch.zeros(1, 2, 1, 2, 2), torch.zeros(2, 3, 4)


def growing_velocity(speed, calls):
    """Return a model whose velocity grows by `speed` per step, and ten times as fast for the second prompt."""

    def model(x, prompts, i):
        calls.append((i, len(prompts)))
        velocity = torch.tensor([1 + speed * i, 1 + 10 * speed * i])[-len(prompts) :]
        return velocity.view(-1, 1, 1, 1, 1).expand(-1, *x.shape[1:])

    return model


def computed_steps(speed, budget):
    calls = []
    cached = StepCache(growing_velocity(speed, calls), TIMES, Schedule(), budget)
    for i in range(len(TIMES)):
        cached(X, PROMPTS, i)
    assert cached.num_computed == len(calls)
    return [i for i, _ in calls]


def test_a_constant_velocity_is_computed_twice():
    assert computed_steps(0.0, 0.0) == [0, 1]


def test_with_a_budget_of_0_every_change_is_computed():
    assert computed_steps(0.01, 0.0) == list(range(20))


def test_a_larger_budget_and_less_change_skip_more_steps():
    assert len(computed_steps(0.01, 0.1)) < len(computed_steps(0.01, 0.01)) < 20
    assert len(computed_steps(0.001, 0.01)) < len(computed_steps(0.01, 0.01))


def velocity_with_values(values):
    """Return a model with the given velocity at each step."""
    return lambda x, prompts, i: values[i] * torch.ones(len(prompts), *x.shape[1:])


def velocities(model, budget):
    cached = StepCache(model, TIMES, Schedule(), budget)
    actual = [cached(X, PROMPTS, i).flatten()[0].item() for i in range(len(TIMES))]
    return actual, cached


def test_a_linear_velocity_is_extrapolated_exactly():
    """Two velocities determine the slope, a third the confidence, and a fourth shows that the error is 0."""
    angles = StepCache(growing_velocity(0.0, []), TIMES, Schedule(), 0.0).angles
    values = [1 + angle for angle in angles]
    actual, cached = velocities(velocity_with_values(values), 1e-4)
    assert cached.num_computed == 4 and actual == pytest.approx(values[:20], rel=1e-5)


def test_an_alternating_velocity_is_reused():
    values = [1 + 0.01 * (-1) ** i for i in range(20)]
    actual, cached = velocities(velocity_with_values(values), 0.005)
    assert cached.num_computed < 20 and {round(value, 4) for value in actual} == {0.99, 1.01}


def test_each_prompt_has_its_own_velocity_and_a_missing_one_is_computed():
    calls = []
    constant = growing_velocity(0.0, calls)
    model = lambda x, prompts, i: constant(x, prompts, i) * torch.arange(3 - len(prompts), 3).view(-1, 1, 1, 1, 1)  # noqa: E731
    cached = StepCache(model, TIMES, Schedule(), 1.0)
    cached(X, PROMPTS[1:], 0)
    assert cached(X, PROMPTS[1:], 1).flatten()[0] == 2
    assert cached(X, PROMPTS, 2).flatten(1)[:, 0].tolist() == [1, 2]
    assert cached(X, PROMPTS, 3).flatten(1)[:, 0].tolist() == [1, 2]
    assert cached(X, PROMPTS[1:], 4).flatten()[0] == 2
    assert calls == [(0, 1), (1, 1), (2, 2)]


class RecordingCache(StepCache):
    """Records the steps at which it is called."""

    def __init__(self, *args):
        super().__init__(*args)
        self.steps = []

    def __call__(self, x, prompts, i):
        self.steps.append(i)
        return super().__call__(x, prompts, i)


@pytest.fixture
def caches(monkeypatch):
    """Return the step caches of all generations, in order."""
    created = []
    monkeypatch.setattr(module, "StepCache", lambda *args: created.append(RecordingCache(*args)) or created[-1])
    return created


@pytest.mark.parametrize("variant", ["2b", "1.5-5b-i2v"])
@pytest.mark.parametrize("sampler", ["ddim", "dpm++"])
def test_larger_budgets_skip_more_steps_in_a_generation(pipes, clip, variant, sampler, caches):
    """A budget of 0 computes all steps, a larger one fewer; sequential guidance does not change the video."""
    image = {"image": clip[0]} if variant in tiny.IMAGE_TRANSFORMERS else {}
    values = {**image, "num_frames": 9, "num_inference_steps": 8, "sampler": sampler, "seed": 0}
    pipe = pipes[variant]
    plain = pipe.generate(PROMPT, **values)
    assert "cache" not in plain.metadata
    exact = pipe.generate(PROMPT, **values, cache=0.0)
    cached = pipe.generate(PROMPT, **values, cache=1.0)
    assert (exact.frames == plain.frames).all() and cached.metadata["cache"] == 1
    assert caches[0].num_computed == 8 and caches[1].num_computed < 8
    sequential = pipe.generate(PROMPT, **values, cache=1.0, sequential_guidance=True)
    assert np.abs(sequential.frames.astype(int) - cached.frames).max() <= 1
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
def test_windows_and_videos_do_not_share_a_cache(pipes, clip, variant, num_caches, values, caches):
    """Each window of each sampler run has its own cache, so every video equals a single-video run with its seed."""
    inputs = {"image": clip[0], "video": clip[:9]}
    values = {name: inputs.get(name, value) for name, value in values.items()}
    values = {"num_frames": 9, "num_inference_steps": 6, **values}
    pipe = pipes[variant]
    exact = pipe.generate(PROMPT, **values, seed=3, cache=0.0)
    assert (exact.frames == pipe.generate(PROMPT, **values, seed=3).frames).all()
    num_steps = len(caches[0].steps)
    assert all(cache.num_computed == num_steps for cache in caches)
    caches.clear()

    pair = pipe.generate(PROMPT, **values, seed=3, cache=1.0, num_videos=2)
    assert len(caches) == 2 * num_caches
    assert all(cache.steps == list(range(num_steps)) for cache in caches)
    assert all(2 <= cache.num_computed < num_steps for cache in caches)
    for video, seed in reversed(list(zip(pair, (3, 4)))):
        assert (pipe.generate(PROMPT, **values, seed=seed, cache=1.0).frames == video.frames).all()


def test_group_offloading_and_loras_compute_the_same_steps(pipes, caches):
    """The video does not depend on the placement of the weights."""
    spec, values = pipes["5b"].spec, {"num_inference_steps": 6, "seed": 0, "cache": 1.0}
    adapter = inject.create_lora(pipes["5b"].model.transformer, torch.Generator().manual_seed(0), rank=2)
    for factors in adapter.layers.values():
        factors.up.normal_(generator=torch.Generator().manual_seed(1))
    hardware = detect_hardware(torch.device("cpu"), "float32", measured=False)
    strategies = ("group_offload", "group_offload")
    plan = estimate_plan(profile_model(spec), default_workload(spec), hardware, strategies, VAESlicing())
    resident, offloaded = CogVideoX.from_pretrained(spec, "cpu"), CogVideoX.from_pretrained(spec, "cpu", memory=plan)
    actual = []
    for pipe in (resident, offloaded):
        before = pipe.generate(PROMPT, **values).frames
        pipe.load_lora(adapter)
        with_lora = pipe.generate(PROMPT, **values).frames
        pipe.unload_lora()
        assert (pipe.generate(PROMPT, **values).frames == before).all() and (with_lora != before).any()
        actual.append((before, with_lora))
    assert np.array_equal(*actual)
    computed_steps = [cache.num_computed for cache in caches]
    assert computed_steps[:3] == computed_steps[3:] and max(computed_steps) < 6


def test_a_step_cache_with_several_processes_is_rejected(pipes):
    pipe = pipes["2b"]
    request = complete_request(pipe.spec, PROMPT, cache=0.1)
    values = {"device": pipe.device, "dtype": pipe.dtype, "report": print, "ranks": object.__new__(Ranks)}
    with pytest.raises(UserError, match="cache is not supported with several processes"):
        module.denoise(
            pipe.model, request, 9, PromptEmbeddings(torch.zeros(1, 1, 1)), Conditioning(), torch.Generator(), **values
        )
