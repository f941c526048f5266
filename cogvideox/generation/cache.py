"""Step caching: where the velocity hardly changes, that of an earlier step is used again. Faster, and another video.

At each step that is computed, the network tells how far off the velocity before it would have been: so fast does it
change, in this video and at this time. As far as that goes on, a step that reuses a velocity errs by a known share of
the latents, and as long as these errors together stay in a budget, steps are not computed. This is close to EasyCache
(Zhou et al. 2025), which measures along the path of the state instead of the schedule's.

It lies around the network and knows nothing of it: however blocks are compiled, recorded or streamed, a step that is
not computed costs nothing. Deciding takes one number from the device in each step that is computed.

Axes: b texts, c latent channels, t latent frames, h w latent size, n text tokens, d text width.
"""

import math
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from cogvideox.diffusion.schedule import Schedule
from cogvideox.generation.predict import Network


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
        self.rate = math.inf  # its relative change, for each unit of angle
        self.spent = 0.0
        self.num_computed = 0

    def __call__(
        self, x: Float[Tensor, "1 c t h w"], texts: Float[Tensor, "b n d"], i: int
    ) -> Float[Tensor, "b c t h w"]:
        known = self.velocity
        if known is not None and len(known) >= len(texts):
            error = self.rate * self._error_of(i)
            if self.spent + error <= self.budget:
                self.spent += error
                return known[-len(texts) :]
        velocity = self.net(x, texts, i)
        if known is not None:
            self.rate = _change(known, velocity) / (self.angles[self.computed_at] - self.angles[i])
        self.velocity, self.computed_at, self.spent = velocity, i, 0.0
        self.num_computed += 1
        return velocity

    def _error_of(self, i: int) -> float:
        """How far step i would lead astray with a velocity that changes at rate 1: off by the angle since it was
        computed, along the step; the video is to the state as its signal is, so that errors under noise count more."""
        here, after = self.angles[i], self.angles[i + 1]
        return (self.angles[self.computed_at] - here) * (here - after) / math.cos(after)


def _change(before: Float[Tensor, "_a c t h w"], now: Float[Tensor, "_b c t h w"]) -> float:
    """The relative change of the texts that both have, of that which changed the most."""
    count = min(len(before), len(now))
    now = now[-count:].float().flatten(1)
    return ((before[-count:].float().flatten(1) - now).norm(dim=1) / now.norm(dim=1)).max().item()
