import pytest
import torch
from einops import rearrange

from cogvideox.diffusion.samplers import SAMPLERS, ddim, initial_noise
from cogvideox.diffusion.schedule import Schedule
from cogvideox.diffusion.timesteps import trailing

SHAPE = (2, 4, 3, 5, 6)
SCHEDULE = Schedule()
samplers = pytest.mark.parametrize("name", SAMPLERS)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def velocity(x, t, i):
    return torch.sin(x + t)


def run(name, *seeds, predict=velocity, num_steps=4, **options):
    generators = [seeded(seed) for seed in seeds]
    start = initial_noise((len(seeds), *SHAPE[1:]), generators)
    return SAMPLERS[name](predict, start, trailing(num_steps), SCHEDULE, generator=generators, **options)


def test_noise_is_sampled_with_time_before_channels():
    b, c, t, h, w = SHAPE
    noise = initial_noise(SHAPE, seeded())
    assert noise.shape == SHAPE and noise.dtype == torch.float32 and noise.is_contiguous()
    assert torch.equal(rearrange(noise, "b c t h w -> b t c h w"), torch.randn(b, t, c, h, w, generator=seeded()))


def test_each_sample_has_the_noise_of_its_generator():
    batch = initial_noise(SHAPE, [seeded(3), seeded(4)])
    for i, seed in enumerate((3, 4)):
        assert torch.equal(batch[i : i + 1], initial_noise((1, *SHAPE[1:]), seeded(seed)))
    with pytest.raises(ValueError, match="3 generators for 2 samples"):
        initial_noise(SHAPE, [seeded(), seeded(), seeded()])


@samplers
def test_a_sample_does_not_depend_on_its_batch(name):
    batch = run(name, 3, 4)
    for i, seed in enumerate((3, 4)):
        torch.testing.assert_close(batch[i : i + 1], run(name, seed))


@samplers
def test_result_depends_on_the_generator_only(name):
    first = run(name, 1)
    torch.rand(3)
    assert torch.equal(run(name, 1), first)
    assert not torch.equal(run(name, 2), first)


def test_eta_of_ddim_adds_noise():
    assert torch.equal(run("ddim", 0, eta=0.0), run("ddim", 0))
    assert not torch.equal(run("ddim", 0, eta=0.5), run("ddim", 0))
    with pytest.raises(ValueError, match=r"eta=0.5 .* generator"):
        ddim(velocity, initial_noise(SHAPE, seeded()), trailing(3), SCHEDULE, eta=0.5)
    with pytest.raises(ValueError, match=r"eta=1.5 must be between 0"):
        run("ddim", 0, eta=1.5)


def test_dpm_without_noise_needs_no_generator():
    first = run("dpm++", 0, eta=0.0)
    start = initial_noise((1, *SHAPE[1:]), [seeded()])
    assert torch.equal(SAMPLERS["dpm++"](velocity, start, trailing(4), SCHEDULE, eta=0.0), first)
    assert not torch.equal(run("dpm++", 0, eta=0.5), first)
    assert torch.equal(run("dpm++", 0, eta=1.0), run("dpm++", 0))
    with pytest.raises(ValueError, match=r"eta=1.0 .* generator"):
        SAMPLERS["dpm++"](velocity, start, trailing(4), SCHEDULE)


@samplers
def test_state_is_float32_with_a_half_precision_network(name):
    dtypes = []

    def predict_bfloat16(x, t, i):
        dtypes.append(x.dtype)
        return velocity(x, t, i).bfloat16()

    end = run(name, 0, predict=predict_bfloat16, on_step=lambda i, total, t, x0: dtypes.append(x0.dtype))
    assert {*dtypes, end.dtype} == {torch.float32}


@samplers
def test_on_step_reports_each_step(name):
    reports, calls = [], []

    def predict(x, t, i):
        calls.append((i, t))
        return velocity(x, t, i)

    run(name, 0, predict=predict, num_steps=3, on_step=lambda i, total, t, x0: reports.append((i, total, t, x0.shape)))
    assert calls == [(0, 999), (1, 666), (2, 332)]
    assert reports == [(i, 3, t, (1, *SHAPE[1:])) for i, t in calls]


@samplers
def test_initial_noise_is_not_modified(name):
    start = initial_noise(SHAPE, seeded())
    copy = start.clone()
    SAMPLERS[name](velocity, start, trailing(3), SCHEDULE, generator=seeded())
    assert torch.equal(start, copy)


@samplers
@pytest.mark.parametrize("timesteps", [[], [500, 500], [100, 200], [1000, 500], [5, -1]])
def test_timesteps_must_descend_within_range(name, timesteps):
    with pytest.raises(ValueError, match="timesteps must"):
        SAMPLERS[name](velocity, initial_noise(SHAPE, seeded()), timesteps, SCHEDULE, generator=seeded())
