"""Schedules and samplers equal diffusers' CogVideoXDDIMScheduler and CogVideoXDPMScheduler."""

import pytest
import torch
from einops import rearrange

from cogvideox.diffusion.config import SAMPLER_OF_SCHEDULER
from cogvideox.diffusion.guidance import combine, constant, dynamic
from cogvideox.diffusion.objective import add_noise, v_target
from cogvideox.diffusion.samplers import SAMPLERS, initial_noise
from cogvideox.diffusion.schedule import Schedule
from cogvideox.diffusion.timesteps import trailing

pytest.importorskip("diffusers")

from diffusers import CogVideoXDDIMScheduler, CogVideoXDPMScheduler, CogVideoXPipeline, CogVideoXTransformer3DModel

THEIRS = {"ddim": CogVideoXDDIMScheduler, "dpm++": CogVideoXDPMScheduler}
SHAPE = (2, 4, 3, 6, 8)  # b c t h w
TOLERANCE = 1e-5


def their_layout(x):
    return rearrange(x, "b c t h w -> b t c h w")


def our_layout(x):
    return rearrange(x, "b t c h w -> b c t h w")


def relative_error(ours, theirs):
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def velocity(x, t):
    """A prediction that depends on state and timestep, and not on the layout."""
    return torch.sin(1.5 * x + t / 150) - 0.3 * x


def their_run(sampler, schedule, num_steps, generator, first=0):
    """diffusers' loop: the states before each step and the final one, and the predictions of x0."""
    scheduler = THEIRS[sampler].from_config(schedule.to_diffusers(sampler))
    scheduler.set_timesteps(num_steps)
    timesteps = scheduler.timesteps[first:]
    b, c, t, h, w = SHAPE
    if isinstance(generator, list):
        x = torch.cat([torch.randn(1, t, c, h, w, generator=one) for one in generator])
    else:
        x = torch.randn(b, t, c, h, w, generator=generator)
    states, estimates, estimate = [x], [], None
    for i, time in enumerate(timesteps):
        v = velocity(x, time.item())
        if sampler == "ddim":
            x, estimate = scheduler.step(v, time, x, generator=generator, return_dict=False)
        else:
            before = timesteps[i - 1] if i > 0 else None
            x, estimate = scheduler.step(v, estimate, time, before, x, generator=generator, return_dict=False)
        states.append(x)
        estimates.append(estimate)
    return states, estimates


def our_run(sampler, schedule, times, generator):
    states, estimates = [], []

    def predict(x, t, i):
        assert times[i] == t and len(states) == i
        states.append(x)
        return velocity(x, t)

    def on_step(i, total, t, x0):
        assert (total, t, i) == (len(times), times[i], len(estimates))
        estimates.append(x0)

    start = initial_noise(SHAPE, generator)
    states.append(SAMPLERS[sampler](predict, start, times, schedule, generator=generator, on_step=on_step))
    return states, estimates


def seeded(seed=5):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("sampler", THEIRS)
def test_schedules_are_equal(sampler, scale, rescale):
    schedule = Schedule(snr_shift_scale=scale, rescale_betas_zero_snr=rescale)
    theirs = THEIRS[sampler].from_config(schedule.to_diffusers(sampler))
    torch.testing.assert_close(schedule.alphas_cumprod, theirs.alphas_cumprod, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("sampler", THEIRS)
def test_config_saved_by_diffusers_is_read(sampler, tmp_path):
    THEIRS[sampler](
        prediction_type="v_prediction", timestep_spacing="trailing", rescale_betas_zero_snr=True, snr_shift_scale=1.0
    ).save_pretrained(tmp_path)
    config = THEIRS[sampler].load_config(tmp_path)
    assert SAMPLER_OF_SCHEDULER[config["_class_name"]] == sampler
    assert Schedule.from_diffusers(config) == Schedule(snr_shift_scale=1.0)


@pytest.mark.parametrize("sampler", THEIRS)
def test_config_for_diffusers_sets_every_key(sampler):
    config = Schedule().to_diffusers(sampler)
    theirs = THEIRS[sampler].from_config(config)
    assert {key: value for key, value in theirs.config.items() if not key.startswith("_")} == {
        key: value for key, value in config.items() if not key.startswith("_")
    }


def test_noise_and_targets_are_equal():
    schedule, theirs = Schedule(), CogVideoXDDIMScheduler.from_config(Schedule().to_diffusers("ddim"))
    x0, noise, t = torch.randn(SHAPE), torch.randn(SHAPE), torch.tensor([999, 317])
    assert relative_error(add_noise(x0, noise, t, schedule), theirs.add_noise(x0, noise, t)) < TOLERANCE
    # diffusers has get_velocity in the DPM class only
    theirs = CogVideoXDPMScheduler.from_config(Schedule().to_diffusers("dpm++"))
    assert relative_error(v_target(x0, noise, t, schedule), theirs.get_velocity(x0, noise, t)) < TOLERANCE


def test_trailing_timesteps_are_equal():
    theirs = CogVideoXDDIMScheduler.from_config(Schedule().to_diffusers("ddim"))
    for num_steps in range(1, 1001):
        theirs.set_timesteps(num_steps)
        # numpy's arange with a float step sometimes returns an additional timestep, -1
        expected = [t for t in theirs.timesteps.tolist() if t >= 0]
        # and its rounding errors decide ties between two timesteps
        ties = {left for left in range(1, num_steps + 1) if 2 * 1000 * left % (2 * num_steps) == num_steps}
        for i, (ours, their) in enumerate(zip(trailing(num_steps), expected, strict=True)):
            assert ours == their or (abs(ours - their) == 1 and num_steps - i in ties)


@pytest.mark.parametrize("num_steps", [1, 2, 4, 10, 50, 125])
@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("sampler", THEIRS)
def test_every_step_is_equal(sampler, scale, num_steps):
    schedule, ours_from, theirs_from = Schedule(snr_shift_scale=scale), seeded(), seeded()
    ours, our_estimates = our_run(sampler, schedule, trailing(num_steps), ours_from)
    theirs, their_estimates = their_run(sampler, schedule, num_steps, theirs_from)
    assert len(ours) == len(theirs) == num_steps + 1
    for our_state, their_state in zip(ours + our_estimates, theirs + their_estimates):
        assert relative_error(our_state, our_layout(their_state)) < TOLERANCE
    assert torch.equal(ours_from.get_state(), theirs_from.get_state())


@pytest.mark.parametrize("sampler", THEIRS)
def test_partial_runs_are_equal(sampler):
    """The last 6 of 10 steps, as in video-to-video; the first of them is of first order."""
    schedule = Schedule(snr_shift_scale=1.0)
    ours, _ = our_run(sampler, schedule, trailing(10)[4:], seeded())
    theirs, _ = their_run(sampler, schedule, 10, seeded(), first=4)
    assert relative_error(ours[-1], our_layout(theirs[-1])) < TOLERANCE


@pytest.mark.parametrize("sampler", THEIRS)
def test_a_generator_for_each_sample_is_equal(sampler):
    ours, _ = our_run(sampler, Schedule(), trailing(5), [seeded(1), seeded(2)])
    theirs, _ = their_run(sampler, Schedule(), 5, [seeded(1), seeded(2)])
    assert relative_error(ours[-1], our_layout(theirs[-1])) < TOLERANCE


@pytest.mark.parametrize("use_dynamic", [False, True])
@pytest.mark.parametrize("sampler", THEIRS)
def test_pipeline_loops_are_equal(sampler, use_dynamic):
    """Initial noise, guidance and sampler together, around diffusers' own transformer."""
    schedule, num_steps, scale = Schedule(snr_shift_scale=1.0), 8, 6.0
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=4, time_embed_dim=8, text_embed_dim=8,
        num_layers=1, sample_width=4, sample_height=4, sample_frames=9, max_text_seq_length=5,
    ).eval()  # fmt: skip
    text, null = torch.randn(2, 1, 5, 8)
    pipeline = CogVideoXPipeline(
        None, None, None, transformer, THEIRS[sampler].from_config(schedule.to_diffusers(sampler))
    )
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        prompt_embeds=text, negative_prompt_embeds=null, height=32, width=32, num_frames=9, guidance_scale=scale,
        num_inference_steps=num_steps, use_dynamic_cfg=use_dynamic, generator=seeded(), output_type="latent",
    ).frames  # fmt: skip

    guidance = dynamic(scale, num_steps) if use_dynamic else constant(scale)

    def predict(x, t, i):
        both = their_layout(x).repeat(2, 1, 1, 1, 1)
        v = transformer(both, torch.cat([null, text]), torch.tensor([t, t]), return_dict=False)[0]
        uncond, cond = our_layout(v).chunk(2)
        return combine(cond, uncond, guidance(t))

    generator = seeded()
    with torch.no_grad():
        start = initial_noise((1, 4, 3, 4, 4), generator)
        ours = SAMPLERS[sampler](predict, start, trailing(num_steps), schedule, generator=generator)
    assert relative_error(ours, our_layout(theirs)) < TOLERANCE
