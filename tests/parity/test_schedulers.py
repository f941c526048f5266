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

REFERENCE_CLASSES = {"ddim": CogVideoXDDIMScheduler, "dpm++": CogVideoXDPMScheduler}
SHAPE = (2, 4, 3, 6, 8)  # b c t h w
TOLERANCE = 1e-5


def to_diffusers_layout(x):
    return rearrange(x, "b c t h w -> b t c h w")


def from_diffusers_layout(x):
    return rearrange(x, "b t c h w -> b c t h w")


def relative_error(actual, expected):
    return ((actual - expected).abs().max() / expected.abs().max()).item()


def velocity(x, t):
    """Return a prediction that depends on state and timestep but not on the layout."""
    return torch.sin(1.5 * x + t / 150) - 0.3 * x


def run_reference(sampler, schedule, num_steps, generator, first=0):
    """Run diffusers' denoising loop; return the state before each step and at the end, and the predictions of x0."""
    scheduler = REFERENCE_CLASSES[sampler].from_config(schedule.to_diffusers(sampler))
    scheduler.set_timesteps(num_steps)
    timesteps = scheduler.timesteps[first:]
    b, c, t, h, w = SHAPE
    if isinstance(generator, list):
        x = torch.cat([torch.randn(1, t, c, h, w, generator=g) for g in generator])
    else:
        x = torch.randn(b, t, c, h, w, generator=generator)
    states, estimates, estimate = [x], [], None
    for i, time in enumerate(timesteps):
        v = velocity(x, time.item())
        if sampler == "ddim":
            x, estimate = scheduler.step(v, time, x, generator=generator, return_dict=False)
        else:
            previous = timesteps[i - 1] if i > 0 else None
            x, estimate = scheduler.step(v, estimate, time, previous, x, generator=generator, return_dict=False)
        states.append(x)
        estimates.append(estimate)
    return states, estimates


def run_sampler(sampler, schedule, times, generator):
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
@pytest.mark.parametrize("sampler", REFERENCE_CLASSES)
def test_schedules_are_equal(sampler, scale, rescale):
    schedule = Schedule(snr_shift_scale=scale, rescale_betas_zero_snr=rescale)
    reference = REFERENCE_CLASSES[sampler].from_config(schedule.to_diffusers(sampler))
    torch.testing.assert_close(schedule.alphas_cumprod, reference.alphas_cumprod, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("sampler", REFERENCE_CLASSES)
def test_config_saved_by_diffusers_is_read(sampler, tmp_path):
    REFERENCE_CLASSES[sampler](
        prediction_type="v_prediction", timestep_spacing="trailing", rescale_betas_zero_snr=True, snr_shift_scale=1.0
    ).save_pretrained(tmp_path)
    config = REFERENCE_CLASSES[sampler].load_config(tmp_path)
    assert SAMPLER_OF_SCHEDULER[config["_class_name"]] == sampler
    assert Schedule.from_diffusers(config) == Schedule(snr_shift_scale=1.0)


@pytest.mark.parametrize("sampler", REFERENCE_CLASSES)
def test_config_for_diffusers_sets_every_key(sampler):
    config = Schedule().to_diffusers(sampler)
    reference = REFERENCE_CLASSES[sampler].from_config(config)
    assert {key: value for key, value in reference.config.items() if not key.startswith("_")} == {
        key: value for key, value in config.items() if not key.startswith("_")
    }


def test_noise_and_targets_are_equal():
    schedule, reference = Schedule(), CogVideoXDDIMScheduler.from_config(Schedule().to_diffusers("ddim"))
    x0, noise, t = torch.randn(SHAPE), torch.randn(SHAPE), torch.tensor([999, 317])
    assert relative_error(add_noise(x0, noise, t, schedule), reference.add_noise(x0, noise, t)) < TOLERANCE
    # in diffusers, only the DPM class has get_velocity
    reference = CogVideoXDPMScheduler.from_config(Schedule().to_diffusers("dpm++"))
    assert relative_error(v_target(x0, noise, t, schedule), reference.get_velocity(x0, noise, t)) < TOLERANCE


def test_trailing_timesteps_are_equal():
    reference = CogVideoXDDIMScheduler.from_config(Schedule().to_diffusers("ddim"))
    for num_steps in range(1, 1001):
        reference.set_timesteps(num_steps)
        # with a float step, numpy's arange sometimes returns an additional timestep, -1
        expected = [t for t in reference.timesteps.tolist() if t >= 0]
        # its rounding errors also decide ties between two timesteps
        ties = {left for left in range(1, num_steps + 1) if 2 * 1000 * left % (2 * num_steps) == num_steps}
        for i, (t, expected_t) in enumerate(zip(trailing(num_steps), expected, strict=True)):
            assert t == expected_t or (abs(t - expected_t) == 1 and num_steps - i in ties)


@pytest.mark.parametrize("num_steps", [1, 2, 4, 10, 50, 125])
@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("sampler", REFERENCE_CLASSES)
def test_every_step_is_equal(sampler, scale, num_steps):
    schedule, generator, reference_generator = Schedule(snr_shift_scale=scale), seeded(), seeded()
    states, estimates = run_sampler(sampler, schedule, trailing(num_steps), generator)
    expected_states, expected_estimates = run_reference(sampler, schedule, num_steps, reference_generator)
    assert len(states) == len(expected_states) == num_steps + 1
    for actual, expected in zip(states + estimates, expected_states + expected_estimates):
        assert relative_error(actual, from_diffusers_layout(expected)) < TOLERANCE
    assert torch.equal(generator.get_state(), reference_generator.get_state())


@pytest.mark.parametrize("sampler", REFERENCE_CLASSES)
def test_partial_runs_are_equal(sampler):
    """The last 6 of 10 steps, as in video-to-video; the first step is of first order."""
    schedule = Schedule(snr_shift_scale=1.0)
    states, _ = run_sampler(sampler, schedule, trailing(10)[4:], seeded())
    expected_states, _ = run_reference(sampler, schedule, 10, seeded(), first=4)
    assert relative_error(states[-1], from_diffusers_layout(expected_states[-1])) < TOLERANCE


@pytest.mark.parametrize("sampler", REFERENCE_CLASSES)
def test_samples_with_one_generator_each_are_equal(sampler):
    states, _ = run_sampler(sampler, Schedule(), trailing(5), [seeded(1), seeded(2)])
    expected_states, _ = run_reference(sampler, Schedule(), 5, [seeded(1), seeded(2)])
    assert relative_error(states[-1], from_diffusers_layout(expected_states[-1])) < TOLERANCE


@pytest.mark.parametrize("use_dynamic", [False, True])
@pytest.mark.parametrize("sampler", REFERENCE_CLASSES)
def test_pipeline_loops_are_equal(sampler, use_dynamic):
    """Initial noise, guidance and sampler together, with the transformer of diffusers."""
    schedule, num_steps, scale = Schedule(snr_shift_scale=1.0), 8, 6.0
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=4, time_embed_dim=8, text_embed_dim=8,
        num_layers=1, sample_width=4, sample_height=4, sample_frames=9, max_text_seq_length=5,
    ).eval()  # fmt: skip
    text, null = torch.randn(2, 1, 5, 8)
    pipeline = CogVideoXPipeline(
        None, None, None, transformer, REFERENCE_CLASSES[sampler].from_config(schedule.to_diffusers(sampler))
    )
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(
        prompt_embeds=text, negative_prompt_embeds=null, height=32, width=32, num_frames=9, guidance_scale=scale,
        num_inference_steps=num_steps, use_dynamic_cfg=use_dynamic, generator=seeded(), output_type="latent",
    ).frames  # fmt: skip

    guidance = dynamic(scale, num_steps) if use_dynamic else constant(scale)

    def predict(x, t, i):
        batch = to_diffusers_layout(x).repeat(2, 1, 1, 1, 1)
        v = transformer(batch, torch.cat([null, text]), torch.tensor([t, t]), return_dict=False)[0]
        uncond, cond = from_diffusers_layout(v).chunk(2)
        return combine(cond, uncond, guidance(t))

    generator = seeded()
    with torch.no_grad():
        start = initial_noise((1, 4, 3, 4, 4), generator)
        actual = SAMPLERS[sampler](predict, start, trailing(num_steps), schedule, generator=generator)
    assert relative_error(actual, from_diffusers_layout(expected)) < TOLERANCE
