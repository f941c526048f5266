"""Laws of the noise schedule, the velocity, the samplers (on Gaussian data) and explicit uniform sampling."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cogvideox.diffusion.objective import add_noise, loss_per_sample, v_target, v_to_eps, v_to_x0
from cogvideox.diffusion.samplers import SAMPLERS, ddim, ddim_invert, dpmpp_2m, initial_noise
from cogvideox.diffusion.schedule import Schedule
from cogvideox.diffusion.timesteps import explicit_uniform, random_uniform, trailing

SCHEDULES = {"2b": Schedule(), "5b": Schedule(snr_shift_scale=1.0)}
timestep = st.integers(0, 999)
schedules = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
samplers = pytest.mark.parametrize("sampler", SAMPLERS)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# The schedule


@schedules
def test_snr_falls_to_exactly_zero(schedule):
    abar = schedule.alphas_cumprod
    assert abar[0] > 0.99
    assert (abar.diff() < 0).all()
    assert abar[-1] == 0


@given(scale=st.floats(0.1, 10))
def test_shift_lowers_every_log_snr_equally(scale):
    plain = Schedule(snr_shift_scale=1.0, rescale_betas_zero_snr=False)
    shifted = Schedule(snr_shift_scale=scale, rescale_betas_zero_snr=False)
    log_snrs = torch.logit(shifted.alphas_cumprod), torch.logit(plain.alphas_cumprod)
    torch.testing.assert_close(log_snrs[0], log_snrs[1] - math.log(scale))


@schedules
def test_zero_snr_rescaling_keeps_the_first_timestep(schedule):
    before = Schedule(snr_shift_scale=schedule.snr_shift_scale, rescale_betas_zero_snr=False)
    torch.testing.assert_close(schedule.alphas_cumprod[0], before.alphas_cumprod[0])


# The velocity


@given(t=timestep, seed=st.integers(0, 2**31), scale=st.sampled_from([1.0, 3.0]))
def test_velocity_is_an_invertible_rotation(t, seed, scale):
    schedule, timesteps = Schedule(snr_shift_scale=scale), torch.tensor([t, 999 - t])
    x0, noise = torch.randn(2, 2, 3, 4, generator=seeded(seed), dtype=torch.float64)
    x, v = add_noise(x0, noise, timesteps, schedule), v_target(x0, noise, timesteps, schedule)
    alpha, sigma = schedule.signal_and_noise(timesteps, like=x)
    torch.testing.assert_close(v_to_x0(v, x, alpha, sigma), x0)
    torch.testing.assert_close(v_to_eps(v, x, alpha, sigma), noise)
    torch.testing.assert_close(x**2 + v**2, x0**2 + noise**2)  # a rotation preserves norms


def test_last_timestep_is_pure_noise():
    x0, noise, last = torch.randn(3, 5), torch.randn(3, 5), torch.full((3,), 999)
    assert torch.equal(add_noise(x0, noise, last, Schedule()), noise)
    assert torch.equal(v_target(x0, noise, last, Schedule()), -x0)


@given(t=timestep)
def test_velocity_loss_is_the_weighted_x0_loss(t):
    schedule, timesteps = Schedule(), torch.tensor([t])
    x0, noise, error = torch.randn(3, 1, 4, 4, generator=seeded(t))
    x, v = add_noise(x0, noise, timesteps, schedule), v_target(x0, noise, timesteps, schedule)
    alpha, sigma = schedule.signal_and_noise(timesteps, like=x)
    estimate = v_to_x0(v + error, x, alpha, sigma)
    weight = 1 / (1 - schedule.alphas_cumprod[timesteps].float())
    torch.testing.assert_close(loss_per_sample(v + error, v), weight * loss_per_sample(estimate, x0), rtol=2e-3, atol=0)


# Samplers on data for which the optimal prediction is known


def gaussian(schedule, mean, std):
    """Return the optimal velocity prediction for data from N(mean, std^2)."""

    def predict(x, t, i):
        abar = schedule.alphas_cumprod[t].item()
        alpha, sigma = math.sqrt(abar), math.sqrt(1 - abar)
        centered = (x - alpha * mean) / (abar * std**2 + 1 - abar)
        x0, eps = mean + alpha * std**2 * centered, sigma * centered
        return alpha * eps - sigma * x0

    return predict


@schedules
@samplers
@given(num_steps=st.integers(1, 60))
@settings(max_examples=10)
def test_constant_data_is_reached_in_any_number_of_steps(sampler, schedule, num_steps):
    start = initial_noise((1, 2, 3, 2, 2), seeded())
    end = SAMPLERS[sampler](gaussian(schedule, 0.7, 0), start, trailing(num_steps), schedule, generator=seeded())
    torch.testing.assert_close(end, torch.full_like(end, 0.7))


@schedules
@pytest.mark.parametrize("std", [0.3, 1.0, 2.0])
@given(num_steps=st.integers(1, 100))
@settings(max_examples=10)
def test_ddim_is_exact_on_a_gaussian(schedule, std, num_steps):
    """Each step scales the distance to the mean by a known factor, so the result has a closed form."""
    timesteps, mean = trailing(num_steps), 0.7
    abar = torch.cat([schedule.alphas_cumprod[timesteps], torch.ones(1, dtype=torch.float64)])
    alpha, sigma = abar.sqrt(), (1 - abar).sqrt()
    remaining = alpha[1:] * alpha[:-1] * std**2 + sigma[1:] * sigma[:-1]
    factor = (remaining / (abar[:-1] * std**2 + 1 - abar[:-1])).prod().item()
    start = initial_noise((1, 2, 3, 2, 2), seeded())
    end = ddim(gaussian(schedule, mean, std), start, timesteps, schedule)
    torch.testing.assert_close(end, mean + factor * start, rtol=1e-5, atol=1e-5)


@schedules
@pytest.mark.parametrize("std", [0.5, 1.0, 2.0])
def test_ddim_converges_to_the_probability_flow_at_first_order(schedule, std):
    """The flow from N(0, 1) to N(mean, std^2) maps x to mean + std x; step counts need not divide 1000."""
    start = torch.linspace(-2, 2, 5).reshape(1, 1, 5, 1, 1)

    def error(num_steps):
        end = ddim(gaussian(schedule, 0.7, std), start, trailing(num_steps), schedule)
        return (end - (0.7 + std * start)).abs().max().item()

    errors = [error(num_steps) for num_steps in (31, 47, 62, 93, 125, 187, 250, 375, 500, 750, 1000)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.02 * std + 0.001
    for coarse, fine in zip(errors[4:], errors[6:]):  # twice the steps
        assert 1.6 < coarse / fine < 2.1


# Ancestral sampling is a first-order method and dpm++ a second-order one, so it needs fewer steps.
STOCHASTIC = {"ancestral": (partial(ddim, eta=1.0), 500, 0.05), "dpm++": (dpmpp_2m, 200, 0.02)}


@schedules
@pytest.mark.parametrize(("sample", "num_steps", "tolerance"), STOCHASTIC.values(), ids=STOCHASTIC)
@pytest.mark.parametrize("std", [0.5, 1.0, 2.0])
def test_stochastic_samplers_have_the_right_distribution(sample, num_steps, tolerance, schedule, std):
    start = initial_noise((20_000, 1, 1, 1, 1), seeded(1))
    end = sample(gaussian(schedule, 0.7, std), start, trailing(num_steps), schedule, generator=seeded(2))
    assert end.mean().item() == pytest.approx(0.7, abs=5 * std / math.sqrt(len(start)))
    assert end.std().item() == pytest.approx(std, rel=tolerance)


def test_second_order_beats_first_order():
    schedule, std = Schedule(snr_shift_scale=1.0), 1.0
    start = initial_noise((20_000, 1, 1, 1, 1), seeded(1))
    predict, timesteps = gaussian(schedule, 0.0, std), trailing(20)
    first = ddim(predict, start, timesteps, schedule, generator=seeded(2), eta=1.0).std().item()
    second = dpmpp_2m(predict, start, timesteps, schedule, generator=seeded(2)).std().item()
    assert abs(second - std) < 0.02 < 0.1 < abs(first - std)


@schedules
def test_deterministic_dpm_converges_faster_than_ddim(schedule):
    """Its steps are DDIM steps with extrapolated x0, so the two are equal for a single step."""
    start, std = torch.linspace(-2, 2, 5).reshape(1, 1, 5, 1, 1), 1.5
    predict = gaussian(schedule, 0.7, std)

    def run(sample, num_steps, **options):
        return sample(predict, start, trailing(num_steps), schedule, **options)

    torch.testing.assert_close(run(dpmpp_2m, 1, eta=0.0), run(ddim, 1))
    for num_steps in (50, 200, 1000):
        first, second = (
            (end - (0.7 + std * start)).abs().max().item()
            for end in (run(ddim, num_steps), run(dpmpp_2m, num_steps, eta=0.0))
        )
        assert second < first


@schedules
def test_ddim_inversion_finds_the_initial_noise(schedule):
    """On a Gaussian, the round-trip error falls with the number of steps."""
    data, predict = torch.linspace(-2, 2, 5).reshape(1, 1, 5, 1, 1), gaussian(schedule, 0.3, 0.8)
    errors = []
    for num_steps in (50, 200, 800):
        timesteps = trailing(num_steps)
        states = ddim_invert(predict, data, timesteps, schedule)
        assert len(states) == num_steps
        errors.append((ddim(predict, states[0], timesteps, schedule) - data).abs().max().item())
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.05
    # Intermediate states lead back as well, with the remaining timesteps.
    middle = num_steps // 2
    assert (ddim(predict, states[middle], timesteps[middle:], schedule) - data).abs().max() < 0.05


@schedules
@samplers
def test_first_step_is_finite_and_last_step_returns_x0(sampler, schedule):
    estimates, states = [], []

    def predict(x, t, i):
        states.append(x)
        return torch.sin(3 * x + t)

    end = SAMPLERS[sampler](
        predict, initial_noise((1, 2, 3, 2, 2), seeded()), trailing(7), schedule, generator=seeded(),
        on_step=lambda i, total, t, x0: estimates.append(x0),
    )  # fmt: skip
    assert all(x.isfinite().all() for x in [*states, *estimates])
    assert torch.equal(end, estimates[-1])


# Explicit uniform sampling

slots = st.one_of(st.integers(1, 64), st.sampled_from([100, 125, 250, 500, 999, 1000, 1001, 2000, 2500]))


@given(seed=st.integers(0, 2**63), step=st.integers(0, 10**7), num_slots=slots)
def test_every_interval_is_hit_exactly_once(seed, step, num_slots):
    t = explicit_uniform(seed, step, num_slots).sort().values
    interval = torch.arange(num_slots)
    assert (t >= interval * 1000 // num_slots).all()
    assert (t * num_slots < (interval + 1) * 1000).all()
    if 1000 % num_slots == 0:
        assert torch.equal(t * num_slots // 1000, interval)
    if num_slots % 1000 == 0:
        assert torch.equal(t.bincount(minlength=1000), torch.full((1000,), num_slots // 1000))


@given(seed=st.integers(0, 2**63), step=st.integers(0, 10**7), per_rank=st.integers(1, 8))
def test_timesteps_do_not_depend_on_the_number_of_ranks(seed, step, per_rank):
    """Each rank samples all timesteps, independent of its global random state, and uses its slice."""
    num_slots = 8 * per_rank
    expected = explicit_uniform(seed, step, num_slots)
    for num_ranks in (2, 4, 8):
        size, slices = num_slots // num_ranks, []
        for rank in range(num_ranks):
            torch.manual_seed(rank)
            slices.append(explicit_uniform(seed, step, num_slots)[rank * size :][:size])
        assert torch.equal(torch.cat(slices), expected)


@given(seed=st.integers(0, 2**63), step=st.integers(0, 10**7), num_ranks=st.sampled_from([1, 2, 4, 8]))
def test_one_interval_for_each_rank(seed, step, num_ranks):
    """The paper's rule: all slots of a rank share an interval, and every rank has a different one."""
    ranks = [slot * slot % num_ranks for slot in range(5)] + list(range(num_ranks))
    t = explicit_uniform(seed, step, len(ranks), ranks=ranks)
    intervals = t * num_ranks // 1000
    intervals_of_ranks = [{int(i) for i, r in zip(intervals, ranks) if r == rank} for rank in range(num_ranks)]
    assert all(len(rank_intervals) == 1 for rank_intervals in intervals_of_ranks)
    assert set.union(*intervals_of_ranks) == set(range(num_ranks))


def is_uniform(counts):
    """Return whether Pearson's statistic is within five standard deviations of its mean."""
    expected, freedom = counts.sum() / len(counts), len(counts) - 1
    statistic = ((counts - expected) ** 2 / expected).sum().item()
    return abs(statistic - freedom) < 5 * math.sqrt(2 * freedom)


@pytest.mark.parametrize("num_slots", [7, 8, 48])
def test_timesteps_of_each_slot_are_uniform(num_slots):
    t = torch.stack([explicit_uniform(3, step, num_slots) for step in range(20_000)])
    for slot in (0, num_slots - 1):
        assert is_uniform(t[:, slot].bincount(minlength=1000).double())
    # consecutive steps are independent
    coarse = t[:, 0] * 10 // 1000
    pairs = coarse[:-1] * 10 + coarse[1:]
    assert is_uniform(pairs.bincount(minlength=100).double())


def test_seeds_and_steps_are_independent():
    samples = [explicit_uniform(seed, step, 40) for seed in range(20) for step in range(20)]
    assert len({tuple(timesteps.tolist()) for timesteps in samples}) == len(samples)


@pytest.mark.parametrize("num_slots", [8, 40])
def test_steps_vary_less_than_with_independent_timesteps(num_slots):
    """The purpose of explicit uniform sampling: the mean over a step has variance n^-3 / 12 instead of n^-1 / 12."""

    def variance(sample):
        means = torch.stack([sample(0, step, num_slots).double().mean() / 1000 for step in range(2000)])
        return means.var().item() * 12

    assert variance(explicit_uniform) == pytest.approx(num_slots**-3, rel=0.2)
    assert variance(random_uniform) == pytest.approx(num_slots**-1, rel=0.2)
