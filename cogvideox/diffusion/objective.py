"""Training target, loss and conversions of velocity prediction (Salimans & Ho 2022, appendix D; paper section 3) and of
noise prediction (Ho et al. 2020).

With x_t = alpha x0 + sigma eps and v = alpha eps - sigma x0, the pair (x_t, v) is a rotation of (x0, eps), so either
pair can be computed from the other.

Axes: b batch; dims any other dimensions of a sample.
"""

from jaxtyping import Float, Int
from torch import Tensor

from cogvideox.diffusion.schedule import Schedule

Level = float | Float[Tensor, "b *_ones"]
"""alpha or sigma: one value, or one per sample as returned by `Schedule.signal_and_noise`."""


def add_noise(
    x0: Float[Tensor, "b *dims"], noise: Float[Tensor, "b *dims"], t: Int[Tensor, "b"], schedule: Schedule
) -> Float[Tensor, "b *dims"]:
    """Return the noisy sample x_t = alpha x0 + sigma noise, in float32 (or float64 for float64 inputs)."""
    alpha, sigma = schedule.signal_and_noise(t, like=x0)
    return alpha * x0 + sigma * noise


def v_target(
    x0: Float[Tensor, "b *dims"], noise: Float[Tensor, "b *dims"], t: Int[Tensor, "b"], schedule: Schedule
) -> Float[Tensor, "b *dims"]:
    """Return the velocity v = alpha noise - sigma x0, with the dtype of `add_noise`."""
    alpha, sigma = schedule.signal_and_noise(t, like=x0)
    return alpha * noise - sigma * x0


def training_target(
    x0: Float[Tensor, "b *dims"], noise: Float[Tensor, "b *dims"], t: Int[Tensor, "b"], schedule: Schedule
) -> Float[Tensor, "b *dims"]:
    """Return what the network learns to predict: the velocity, or the noise (`schedule.prediction_type`)."""
    return noise if schedule.prediction_type == "epsilon" else v_target(x0, noise, t, schedule)


def output_to_v(
    output: Float[Tensor, "b *dims"], x: Float[Tensor, "b *dims"], t: Int[Tensor, "b"], schedule: Schedule
) -> Float[Tensor, "b *dims"]:
    """Convert the network's output at the state x_t to a velocity. It is returned as it is if it is one."""
    if schedule.prediction_type == "v_prediction":
        return output
    return eps_to_v(output.float(), x.float(), *schedule.signal_and_noise(t, like=x))


def v_to_x0(
    v: Float[Tensor, "b *dims"], x: Float[Tensor, "b *dims"], alpha: Level, sigma: Level
) -> Float[Tensor, "b *dims"]:
    """Convert a velocity prediction at the state x_t to a prediction of the clean sample: x0 = alpha x_t - sigma v."""
    return alpha * x - sigma * v


def v_to_eps(
    v: Float[Tensor, "b *dims"], x: Float[Tensor, "b *dims"], alpha: Level, sigma: Level
) -> Float[Tensor, "b *dims"]:
    """Convert a velocity prediction at the state x_t to a prediction of the noise: eps = sigma x_t + alpha v."""
    return sigma * x + alpha * v


def eps_to_v(
    eps: Float[Tensor, "b *dims"], x: Float[Tensor, "b *dims"], alpha: Level, sigma: Level
) -> Float[Tensor, "b *dims"]:
    """Convert a prediction of the noise to a velocity prediction, the inverse of `v_to_eps`; alpha must not be 0."""
    return (eps - sigma * x) / alpha


def x0_to_v(
    x0: Float[Tensor, "b *dims"], x: Float[Tensor, "b *dims"], alpha: Level, sigma: Level
) -> Float[Tensor, "b *dims"]:
    """Convert a prediction of the clean sample to a velocity prediction, the inverse of `v_to_x0`."""
    return (alpha * x - x0) / sigma


def loss_per_sample(output: Float[Tensor, "b *dims"], target: Float[Tensor, "b *dims"]) -> Float[Tensor, "b"]:
    """Return the diffusion loss of each sample: the MSE of the network's output, in float32.

    For the velocity, this equals the loss of the official code: the squared error of x0, weighted by 1 / (1 - abar).
    """
    return (output.float() - target.float()).square().flatten(1).mean(1)
