"""Laws of noise prediction and of schedules without zero terminal SNR, beside the paper's velocity prediction."""

from dataclasses import replace

import pytest
import torch

from cogvideox.diffusion.config import ScheduleConfig
from cogvideox.diffusion.objective import (
    add_noise,
    eps_to_v,
    loss_per_sample,
    output_to_v,
    training_target,
    v_target,
    v_to_eps,
    v_to_x0,
)
from cogvideox.diffusion.samplers import SAMPLERS
from cogvideox.diffusion.schedule import Schedule
from cogvideox.diffusion.timesteps import trailing
from cogvideox.errors import UserError
from cogvideox.generation.sampling.denoiser import BoundTransformer
from cogvideox.records import PackedBatch
from cogvideox.training.diffusion.loss import clip_losses
from cogvideox.transformer.model import Transformer
from tests import tiny

VELOCITY = Schedule(snr_shift_scale=1.0, rescale_betas_zero_snr=False)
NOISE = replace(VELOCITY, prediction_type="epsilon")
TIMES = torch.tensor([3, 500, 999])


def data(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    return torch.randn(3, 4, 2, 3, 3), torch.randn(3, 4, 2, 3, 3)


def test_noise_and_velocity_of_one_prediction_have_the_same_x0():
    x, v = data()
    alpha, sigma = VELOCITY.signal_and_noise(TIMES, like=x)
    eps = v_to_eps(v, x, alpha, sigma)
    torch.testing.assert_close(eps_to_v(eps, x, alpha, sigma), v, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close((x - sigma * eps) / alpha, v_to_x0(v, x, alpha, sigma), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(output_to_v(eps, x, TIMES, NOISE), v, rtol=1e-3, atol=1e-4)
    assert output_to_v(v, x, TIMES, VELOCITY) is v


def test_targets_are_the_outputs_of_a_perfect_network():
    x0, noise = data()
    x = add_noise(x0, noise, TIMES, VELOCITY)
    assert training_target(x0, noise, TIMES, NOISE) is noise
    target = training_target(x0, noise, TIMES, VELOCITY)
    assert torch.equal(target, v_target(x0, noise, TIMES, VELOCITY))
    torch.testing.assert_close(output_to_v(noise, x, TIMES, NOISE), target, rtol=1e-3, atol=1e-4)


def test_error_of_the_velocity_is_the_error_of_the_noise_divided_by_alpha():
    x0, noise = data()
    x, error = add_noise(x0, noise, TIMES, NOISE), 0.1 * data(1)[0]
    velocity = output_to_v(noise + error, x, TIMES, NOISE)
    losses = loss_per_sample(velocity, v_target(x0, noise, TIMES, NOISE))
    expected = loss_per_sample(noise + error, noise) / NOISE.alphas_cumprod[TIMES].float()
    torch.testing.assert_close(losses, expected, rtol=1e-3, atol=1e-5)


def test_packed_loss_compares_with_the_noise():
    x0, noise = data()
    clips = [tuple(part[i] for part in (x0, noise)) for i in range(3)]
    batch = PackedBatch(
        latents=tuple(clip for clip, _ in clips),
        noise=tuple(eps for _, eps in clips),
        text=torch.zeros(3, 2, 5),
        timestep=TIMES,
        clip_ids=("a", "b", "c"),
    )
    perfect, zero = (
        clip_losses(lambda *_, outputs=o: outputs, batch, NOISE) for o in (batch.noise, [0 * x for x in x0])
    )
    assert perfect.eq(0).all()
    torch.testing.assert_close(zero, noise.square().flatten(1).mean(1))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_have_equal_results_for_noise_and_velocity(sampler):
    """The same function of (x, t), as a network that predicts the velocity and as one that predicts the noise."""
    x, times = data()[0], trailing(8)

    def velocity(x: torch.Tensor, t: int, i: int) -> torch.Tensor:
        return torch.tanh(x) + t / 1000

    def from_noise(x: torch.Tensor, t: int, i: int) -> torch.Tensor:
        times = torch.full((len(x),), t)
        alpha, sigma = NOISE.signal_and_noise(times, like=x)
        return output_to_v(v_to_eps(velocity(x, t, i), x, alpha, sigma), x, times, NOISE)

    results = [
        SAMPLERS[sampler](predict, x, times, NOISE, generator=torch.Generator().manual_seed(0))
        for predict in (velocity, from_noise)
    ]
    torch.testing.assert_close(results[1], results[0], rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_the_bound_transformer_returns_velocities():
    torch.manual_seed(0)
    model = Transformer(tiny.transformer("5b"))
    latents, text = torch.randn(1, 4, 2, 4, 6), torch.randn(2, 12, 32)
    options = {"num_text": 12, "rule": None, "device": torch.device("cpu"), "dtype": torch.float32}
    output, velocity = (
        BoundTransformer(model, [900, 100], schedule, (2, 4, 6), **options)(latents, text, 1)
        for schedule in (VELOCITY, NOISE)
    )
    alpha, sigma = NOISE.signal_and_noise(torch.tensor([100, 100]), like=output)
    torch.testing.assert_close(velocity, eps_to_v(output, latents.expand_as(output), alpha, sigma))


def test_terminal_signal():
    """Without zero terminal SNR, a trace of the signal is left: abar is 0.0047 with the official betas."""
    assert Schedule(snr_shift_scale=1.0).alphas_cumprod[-1] == 0
    assert VELOCITY.alphas_cumprod[-1].item() == pytest.approx(0.00466, rel=1e-2)


def test_noise_prediction_needs_a_terminal_signal():
    with pytest.raises(UserError, match="undefined at zero terminal SNR"):
        ScheduleConfig(prediction_type="epsilon")
    config = ScheduleConfig(prediction_type="epsilon", rescale_betas_zero_snr=False)
    written = config.to_diffusers("ddim")
    assert written["prediction_type"] == "epsilon" and ScheduleConfig.from_diffusers(written) == config
