"""What the network learns: velocity prediction (Salimans & Ho 2022, appendix D; paper section 3).

With x_t = alpha x0 + sigma eps and v = alpha eps - sigma x0, (x_t, v) is (x0, eps) turned by an angle, and the samplers
turn it back: x0 = alpha x_t - sigma v and eps = sigma x_t + alpha v. Timesteps are [b], one for each sample; what comes
back is float32, or float64 where float64 went in.
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


def loss_per_sample(predicted_v: Float[Tensor, "b *dims"], v: Float[Tensor, "b *dims"]) -> Float[Tensor, "b"]:
    """Mean squared error of the velocity, for each sample, in float32.

    The official code writes it as the error of x0 weighted by 1 / (1 - abar), which is the same number.
    """
    return (predicted_v.float() - v.float()).square().flatten(1).mean(1)
