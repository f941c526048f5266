"""The training objective: velocity prediction (Salimans & Ho 2022, appendix D; paper section 3).

With x_t = alpha x0 + sigma eps and v = alpha eps - sigma x0, the pair (x_t, v) is a rotation of (x0, eps), which the
samplers invert: x0 = alpha x_t - sigma v and eps = sigma x_t + alpha v. Timesteps are [b], one for each sample. Results
are float32, or float64 for float64 inputs.

Axes: b batch; dims any other dimensions of a sample.
"""

from jaxtyping import Float, Int
from torch import Tensor

from cogvideox.diffusion.schedule import Schedule


def add_noise(
    x0: Float[Tensor, "b *dims"], noise: Float[Tensor, "b *dims"], t: Int[Tensor, "b"], schedule: Schedule
) -> Float[Tensor, "b *dims"]:
    """Forward process: the noisy sample x_t = alpha x0 + sigma noise."""
    alpha, sigma = schedule.signal_and_noise(t, like=x0)
    return alpha * x0 + sigma * noise


def v_target(
    x0: Float[Tensor, "b *dims"], noise: Float[Tensor, "b *dims"], t: Int[Tensor, "b"], schedule: Schedule
) -> Float[Tensor, "b *dims"]:
    """Training target: the velocity v = alpha noise - sigma x0."""
    alpha, sigma = schedule.signal_and_noise(t, like=x0)
    return alpha * noise - sigma * x0


def loss_per_sample(predicted_v: Float[Tensor, "b *dims"], v: Float[Tensor, "b *dims"]) -> Float[Tensor, "b"]:
    """Mean squared error of the velocity for each sample, in float32.

    Equal to the loss of the official code, the squared error of x0 weighted by 1 / (1 - abar).
    """
    return (predicted_v.float() - v.float()).square().flatten(1).mean(1)
