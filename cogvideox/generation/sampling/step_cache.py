"""Step caching: where the velocity is easily foretold, it is not computed. Faster, and another video.

At each step that is computed, the network tells how far off the velocity foretold for it was: so fast does an error
grow, in this video and at this time. As far as that goes on, a step that is not computed errs by a known share of the
latents, and as long as these errors together stay in a budget, steps are not computed. This is close to EasyCache (Zhou
et al. 2025), which measures along the path of the state instead of the schedule's and uses the last velocity again.

Here a velocity goes on as it went between the last two that were computed (as features do in TaylorSeer, Liu et al.
2025), but only by the share of it that came true the last time: most of it on the smooth path of DDIM, next to nothing
where a sampler adds noise, and then the last one is used again.

It lies around the network and knows nothing of it: however blocks are compiled, recorded or streamed, a step that is
not computed costs nothing. Deciding takes one number from the device in each step that is computed.

Axes: b texts, c latent channels, t latent frames, h w latent size, n text tokens, d text width.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from cogvideox.diffusion.schedule import Schedule
from cogvideox.generation.sampling.denoisers import Network


class Cached:
    """A `Network` that answers some steps from memory. It is for one run of a sampler over one window.

    Each half of guidance has a velocity of its own, so that the scale may change from step to step; both halves are
    computed or neither, so that it does not matter whether they are computed together. A prompt that is asked alone
    (outside of the guidance interval) is the last of the texts.
    """

    def __init__(self, net: Network, times: Sequence[int], schedule: Schedule, budget: float) -> None:
        """
        Args:
            times: the sampler's timesteps, descending.
            budget: the error of steps that follow each other without being computed, as a share of the latents.
        """
        self.net = net
        self.budget = budget
        abar = [float(schedule.alphas_cumprod[t]) for t in times]
        # A velocity turns noise into data: its path is a quarter of a circle, from here to 0.
        self.angles = [*(math.atan2(math.sqrt(1 - a), math.sqrt(a)) for a in abar), 0.0]
        self.velocity: Tensor | None = None
        self.computed_at = 0  # the step of that velocity
        self.slope: Tensor | None = None  # its change for each unit of angle, since the one before
        self.share = torch.zeros(())  # of the last slope, what went on
        self.rate = math.inf  # the relative error of what is foretold, for each unit of angle
        self.spent = 0.0
        self.num_computed = 0

    def __call__(
        self, x: Float[Tensor, "1 c t h w"], texts: Float[Tensor, "b n d"], i: int
    ) -> Float[Tensor, "b c t h w"]:
        if self.velocity is not None and len(self.velocity) >= len(texts):
            error = self.rate * self._error_of(i)
            if self.spent + error <= self.budget:
                self.spent += error
                return self._foretold(i, len(texts))
        velocity = self.net(x, texts, i)
        if self.velocity is not None:
            self._learn(velocity, i)
        self.velocity, self.computed_at, self.spent = velocity, i, 0.0
        self.num_computed += 1
        return velocity

    def _foretold(self, i: int, num_texts: int) -> Float[Tensor, "b c t h w"]:
        """The velocity at step i under the last so many texts."""
        assert self.velocity is not None
        known = self.velocity[-num_texts:]
        if self.slope is None or len(self.slope) < num_texts:
            return known
        return known + self.share * self._turned(i) * self.slope[-num_texts:]

    def _learn(self, velocity: Float[Tensor, "b c t h w"], i: int) -> None:
        """What a velocity tells, beside the one before, of the texts that both have."""
        assert self.velocity is not None
        turned, both = self._turned(i), min(len(velocity), len(self.velocity))
        before, now = self.velocity[-both:].float(), velocity[-both:].float()
        self.rate = _distance(self._foretold(i, both).float(), now) / turned
        slope = (now - before) / turned
        if self.slope is not None and len(self.slope) >= both:
            expected = self.slope[-both:]
            went_on = (slope * expected).sum() / expected.square().sum().clamp(min=1e-20)
            self.share = went_on.clamp(0, 1)
        self.slope = slope

    def _turned(self, i: int) -> float:
        """The angle from the step that was computed last to step i."""
        return self.angles[self.computed_at] - self.angles[i]

    def _error_of(self, i: int) -> float:
        """How far step i would lead astray with a velocity whose error grows at rate 1: off by the angle since it was
        computed, along the step; the video is to the state as its signal is, so that errors under noise count more."""
        here, after = self.angles[i], self.angles[i + 1]
        return self._turned(i) * (here - after) / math.cos(after)


def _distance(found: Float[Tensor, "b c t h w"], expected: Float[Tensor, "b c t h w"]) -> float:
    """Relative, of the text that is the furthest off."""
    found, expected = found.flatten(1), expected.flatten(1)
    return ((found - expected).norm(dim=1) / expected.norm(dim=1)).max().item()
