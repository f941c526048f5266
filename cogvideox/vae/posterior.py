"""The encoder's posterior: a diagonal Gaussian over the latents (paper section 2.1).

Axes: b batch, z latent channels, lt lh lw latent frames, height and width.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

Latents = Float[Tensor, "b z lt lh lw"]


@dataclass(frozen=True)
class Posterior:
    """Mean and log-variance of the unscaled latents, both [b z lt lh lw]."""

    mean: Tensor
    logvar: Tensor

    @classmethod
    def from_moments(cls, moments: Float[Tensor, "b zz lt lh lw"]) -> "Posterior":
        """Split the encoder's output into mean and log-variance, clamping the latter to [-30, 20]."""
        mean, logvar = moments.chunk(2, dim=1)
        return cls(mean, logvar.clamp(-30.0, 20.0))

    def sample(self, generator: torch.Generator | None = None) -> Latents:
        """Sample latents. A CPU generator gives the same noise on every device."""
        device = self.mean.device if generator is None else generator.device
        noise = torch.randn(self.mean.shape, generator=generator, device=device, dtype=self.mean.dtype)
        return self.reparameterize(noise.to(self.mean.device))

    def reparameterize(self, noise: Latents) -> Latents:
        """Return mean + standard deviation * noise."""
        return self.mean + torch.exp(0.5 * self.logvar) * noise

    def kl(self) -> Float[Tensor, " b"]:
        """Return the KL divergence from the standard normal, summed over the latents of each clip."""
        terms = self.mean.square() + self.logvar.exp() - 1.0 - self.logvar
        return 0.5 * terms.flatten(1).sum(1)
