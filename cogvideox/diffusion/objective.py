"""What the network learns: velocity prediction (Salimans & Ho 2022, appendix D; paper section 3).

With x_t = alpha x0 + sigma eps and v = alpha eps - sigma x0, (x_t, v) is (x0, eps) turned by an angle, so that each
pair gives the other. The first four functions are those turns. Timesteps are [b], one for each sample; what comes back
is float32, or float64 where float64 went in.
"""

from jaxtyping import Float, Int
from torch import Tensor

from cogvideox.diffusion.schedule import Schedule


def add_noise(
    x0: Float[Tensor, "b *dims"], noise: Float[Tensor, "b *dims"], t: Int[Tensor, "b"], schedule: Schedule
) -> Float[Tensor, "b *dims"]:
    """The noisy sample x_t = alpha x0 + sigma noise."""
    alpha, sigma = schedule.signal_and_noise(t, like=x0)
    return alpha * x0 + sigma * noise


def v_target(
    x0: Float[Tensor, "b *dims"], noise: Float[Tensor, "b *dims"], t: Int[Tensor, "b"], schedule: Schedule
) -> Float[Tensor, "b *dims"]:
    """The velocity v = alpha noise - sigma x0, which the network is asked for."""
    alpha, sigma = schedule.signal_and_noise(t, like=x0)
    return alpha * noise - sigma * x0


def x0_from_v(
    x: Float[Tensor, "b *dims"], v: Float[Tensor, "b *dims"], t: Int[Tensor, "b"], schedule: Schedule
) -> Float[Tensor, "b *dims"]:
    """The clean sample that a velocity at the noisy sample `x` stands for: alpha x - sigma v."""
    alpha, sigma = schedule.signal_and_noise(t, like=x)
    return alpha * x - sigma * v


def eps_from_v(
    x: Float[Tensor, "b *dims"], v: Float[Tensor, "b *dims"], t: Int[Tensor, "b"], schedule: Schedule
) -> Float[Tensor, "b *dims"]:
    """The noise that a velocity at the noisy sample `x` stands for: sigma x + alpha v."""
    alpha, sigma = schedule.signal_and_noise(t, like=x)
    return sigma * x + alpha * v


def loss_per_sample(predicted_v: Float[Tensor, "b *dims"], v: Float[Tensor, "b *dims"]) -> Float[Tensor, "b"]:
    """Mean squared error of the velocity, for each sample, in float32.

    The official code writes it as the error of x0 weighted by 1 / (1 - abar), which is the same number.
    """
    return (predicted_v.float() - v.float()).square().flatten(1).mean(1)
