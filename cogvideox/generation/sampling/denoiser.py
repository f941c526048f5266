"""Predict the velocity of a clip at each step of a sampler: guidance, windows of a long clip, known frames.

Axes: b prompts, c latent channels, t latent frames, h w latent size, n text tokens, d text width.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cogvideox.diffusion.guidance import Guidance, combine
from cogvideox.diffusion.schedule import Schedule

# Maps a state, prompts and the index of a step to the velocity under each prompt.
VelocityModel = Callable[[Float[Tensor, "1 c t h w"], Float[Tensor, "b n d"], int], Float[Tensor, "b c t h w"]]


@dataclass(frozen=True)
class Denoiser:
    """The prediction that a sampler calls, `denoiser(x, t, i)`, see `diffusion.samplers`.

    models: one for each window; they differ only in their step caches.
    prompts: the prompt [1 n d] without guidance; with it [2 n d], what it steers away from and then the prompt.
    scale: the guidance scale at each timestep; None without guidance.
    guided_steps: steps with guidance (Kynkaanniemi et al. 2024); the others run the prompt alone, in half the time.
    windows: latent frames of each window; None is the whole clip at once.
    weights: see `window_weights`.
    known, schedule: latents of the first frames, if they are known, and the noise schedule that they need.
    """

    models: Sequence[VelocityModel]
    prompts: Float[Tensor, "b n d"]
    scale: Guidance | None = None
    guided_steps: range = range(0)
    windows: Sequence[range] | None = None
    weights: Sequence[Float[Tensor, "_t 1 1"]] = ()
    known: Float[Tensor, "1 c k h w"] | None = None
    schedule: Schedule | None = None

    def __call__(self, x: Float[Tensor, "1 c t h w"], t: int, i: int) -> Float[Tensor, "1 c t h w"]:
        if self.windows is None or len(self.windows) == 1:
            v = self._guided(self.models[0], x, t, i)
        else:
            v = torch.zeros_like(x, dtype=torch.float32)
            for model, window, weight in zip(self.models, self.windows, self.weights):
                part = slice(window.start, window.stop)
                v[:, :, part] += weight * self._guided(model, x[:, :, part], t, i).float()
        return v if self.known is None else self._with_known_frames(x, v, t)

    def _guided(self, model: VelocityModel, x: Tensor, t: int, i: int) -> Float[Tensor, "1 c t h w"]:
        """The velocity under classifier-free guidance."""
        if self.scale is None or len(self.prompts) == 1 or i not in self.guided_steps:
            return model(x, self.prompts[-1:], i)
        uncond, cond = model(x, self.prompts, i).chunk(2)
        return combine(cond, uncond, self.scale(t))

    def _with_known_frames(self, x: Tensor, v: Tensor, t: int) -> Float[Tensor, "1 c t h w"]:
        """The velocity with that of the known frames replaced by the one that leads to them from their current state:
        any sampler then ends there, and on the way the network sees the known frames with noise."""
        assert self.known is not None
        assert self.schedule is not None
        count, abar = self.known.shape[2], self.schedule.alphas_cumprod[t].item()
        to_known = (math.sqrt(abar) * x[:, :, :count] - self.known) / math.sqrt(1 - abar)
        return torch.cat((to_known, v.float()[:, :, count:]), dim=2)


def window_weights(
    windows: Sequence[range], patch_t: int = 1, device: torch.device | str = "cpu"
) -> list[Float[Tensor, "_t 1 1"]]:
    """The weights with which windows of one clip that share frames are averaged (Wang et al. 2023, "Gen-L-Video").

    Every step predicts each window as a clip of its own and averages the shared frames, so the windows stay one video
    throughout and have no seams. Weights rise linearly from the ends of a window to its middle, and sum to 1 over the
    windows of a frame. The first `patch_t` frames of every window but the first have weight 0 and are only context:
    there the network expects the latents of a single frame.
    """
    length = len(windows[0])
    ramp = torch.tensor([min(k + 1, length - k) for k in range(length)], dtype=torch.float32)
    later = ramp.clone()
    later[:patch_t] = 0
    weights = [(later if window.start > 0 else ramp).view(-1, 1, 1) for window in windows]
    total = torch.zeros(windows[-1].stop, 1, 1)
    for window, weight in zip(windows, weights):
        total[window.start : window.stop] += weight
    # Moved to the device once: moving them in every step would synchronize with it.
    return [(weight / total[w.start : w.stop]).to(device) for w, weight in zip(windows, weights)]


def predict_sequentially(model: VelocityModel, x: Tensor, prompts: Tensor, i: int) -> Float[Tensor, "b c t h w"]:
    """Run the prompts one after the other instead of as a batch, which takes less memory."""
    return torch.cat([model(x, prompt, i) for prompt in prompts.split(1)])
