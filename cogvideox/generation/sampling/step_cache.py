"""Step cache: skip steps whose velocity can be extrapolated, which is faster but changes the output.

The prediction error at each computed step estimates the error growth rate. With this rate, the relative error that a
skipped step adds to the latents is estimated, and steps are skipped as long as the sum of these errors is within a
budget. This resembles EasyCache (Zhou et al. 2025), which measures the change of the state instead of using
the noise schedule, and reuses the last velocity without extrapolating it.

The velocity is extrapolated linearly from the last two computed ones (like features in TaylorSeer, Liu et al. 2025).
The slope is multiplied by the fraction of it that continued at the last computed step: nearly 1 on the smooth
trajectory of DDIM, and nearly 0 if the sampler adds noise, in which case the last velocity is reused.

The cache wraps the model and works with compilation, CUDA graphs and offloading. A skipped step computes nothing, and a
computed step reads one value from the device for the decision.

Axes: b prompts, c latent channels, t latent frames, h w latent size, n text tokens, d text width.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from cogvideox.diffusion.schedule import Schedule
from cogvideox.generation.sampling.denoiser import VelocityModel


class StepCache:
    """A `VelocityModel` that extrapolates some steps instead of computing them, for one sampler run over one window.

    The two predictions of guidance have separate velocities, so the guidance scale may change from step to step. Either
    both or neither are computed, so batched and sequential guidance have the same result. Outside of the guidance
    interval, only the velocity of the prompt (the last one in the batch) is computed.

    Args:
        timesteps: the sampler's timesteps, descending.
        budget: maximum summed error of consecutive skipped steps, relative to the latents.
    """

    def __init__(self, model: VelocityModel, timesteps: Sequence[int], schedule: Schedule, budget: float) -> None:
        self.model = model
        self.budget = budget
        abar = [float(schedule.alphas_cumprod[t]) for t in timesteps]
        # Angle of each step on a quarter circle, from pure noise (pi / 2) to clean data (0).
        self.angles = [*(math.atan2(math.sqrt(1 - a), math.sqrt(a)) for a in abar), 0.0]
        self.velocity: Tensor | None = None  # of the last computed step
        self.computed_at = 0  # index of the last computed step
        self.slope: Tensor | None = None  # change of the velocity per radian between the last two computed steps
        self.confidence = torch.zeros(())  # fraction of the previous slope that continued
        self.error_rate = math.inf  # relative error of the extrapolation per radian
        self.spent = 0.0  # summed error of the steps skipped since `computed_at`
        self.num_computed = 0

    def __call__(
        self, x: Float[Tensor, "1 c t h w"], prompts: Float[Tensor, "b n d"], i: int
    ) -> Float[Tensor, "b c t h w"]:
        if self.velocity is not None and len(self.velocity) >= len(prompts):
            error = self.error_rate * self._error_weight(i)
            if self.spent + error <= self.budget:
                self.spent += error
                return self._extrapolate(i, len(prompts))
        velocity = self.model(x, prompts, i)
        if self.velocity is not None:
            self._update(velocity, i)
        self.velocity, self.computed_at, self.spent = velocity, i, 0.0
        self.num_computed += 1
        return velocity

    def _extrapolate(self, i: int, num_prompts: int) -> Float[Tensor, "b c t h w"]:
        """Return the extrapolated velocity at step `i` for the last `num_prompts` prompts."""
        assert self.velocity is not None
        velocity = self.velocity[-num_prompts:]
        if self.slope is None or len(self.slope) < num_prompts:
            return velocity
        return velocity + self.confidence * self._angle_to(i) * self.slope[-num_prompts:]

    def _update(self, velocity: Float[Tensor, "b c t h w"], i: int) -> None:
        """Update error rate, slope and confidence from a computed velocity, for the prompts computed both times."""
        assert self.velocity is not None
        angle, num_shared = self._angle_to(i), min(len(velocity), len(self.velocity))
        previous, current = self.velocity[-num_shared:].float(), velocity[-num_shared:].float()
        self.error_rate = _relative_error(self._extrapolate(i, num_shared).float(), current) / angle
        slope = (current - previous) / angle
        if self.slope is not None and len(self.slope) >= num_shared:
            expected = self.slope[-num_shared:]
            continued = (slope * expected).sum() / expected.square().sum().clamp(min=1e-20)
            self.confidence = continued.clamp(0, 1)
        self.slope = slope

    def _angle_to(self, i: int) -> float:
        """Return the angle from the last computed step to step `i`."""
        return self.angles[self.computed_at] - self.angles[i]

    def _error_weight(self, i: int) -> float:
        """Return the error of the latents after step `i` per unit of `error_rate`.

        It is the angle since the last computed step times the angle of this step, divided by the signal level.
        """
        start, end = self.angles[i], self.angles[i + 1]
        return self._angle_to(i) * (start - end) / math.cos(end)


def _relative_error(predicted: Float[Tensor, "b c t h w"], computed: Float[Tensor, "b c t h w"]) -> float:
    """Return the maximum relative error over the prompts."""
    predicted, computed = predicted.flatten(1), computed.flatten(1)
    return ((predicted - computed).norm(dim=1) / computed.norm(dim=1)).max().item()
