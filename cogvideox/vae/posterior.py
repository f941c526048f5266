"""The diagonal Gaussian that the encoder predicts for each latent (paper section 2.1, the KL term)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

Latents = Float[Tensor, "b z lt lh lw"]


@dataclass(frozen=True)
class Posterior:
    """Mean and log-variance of the latents, both [b z lt lh lw], unscaled."""

    mean: Tensor
    logvar: Tensor

    @classmethod
    def from_moments(cls, moments: Float[Tensor, "b zz lt lh lw"]) -> "Posterior":
        """Split what the encoder puts out; the log-variance is kept in [-30, 20]."""
        mean, logvar = moments.chunk(2, dim=1)
        return cls(mean, logvar.clamp(-30.0, 20.0))

    def sample(self, generator: torch.Generator | None = None) -> Latents:
        """Draw latents. The noise is drawn on the generator's device, so a CPU seed means the same everywhere."""
        device = self.mean.device if generator is None else generator.device
        noise = torch.randn(self.mean.shape, generator=generator, device=device, dtype=self.mean.dtype)
        return self.at(noise.to(self.mean.device))

    def at(self, noise: Latents) -> Latents:
        """The latents that standard normal noise stands for."""
        return self.mean + torch.exp(0.5 * self.logvar) * noise

    def kl(self) -> Float[Tensor, " b"]:
        """KL divergence to the standard normal, summed over all latents of each clip."""
        terms = self.mean.square() + self.logvar.exp() - 1.0 - self.logvar
        return 0.5 * terms.flatten(1).sum(1)
