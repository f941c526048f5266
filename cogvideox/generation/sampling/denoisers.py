"""What a sampler asks at each step: the velocity, under guidance, of all frames or window by window.

A `Network` is the transformer with all that stays the same over the steps bound to it. Each function here makes a
`Predict` (see `diffusion.samplers`) of one.

Axes: b batch, c latent channels, t latent frames, h w latent size, n text tokens, d text width.
"""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from cogvideox.diffusion import guidance
from cogvideox.diffusion.samplers import Predict
from cogvideox.diffusion.schedule import Schedule
from cogvideox.generation.sampling.acceleration import ask
from cogvideox.transformer.attention import Attend
from cogvideox.transformer.config import GridRule
from cogvideox.transformer.model import Transformer
from cogvideox.transformer.position import positions_for, token_grid

# State, texts and step index to the velocity under each of the texts.
Network = Callable[[Float[Tensor, "1 c t h w"], Float[Tensor, "b n d"], int], Float[Tensor, "b c t h w"]]


def network(
    model: Transformer,
    times: Sequence[int],
    size: tuple[int, int, int],
    *,
    num_text: int,
    rule: GridRule | None,
    device: torch.device,
    dtype: torch.dtype,
    image: Float[Tensor, "1 c t h w"] | None = None,
    attend: Attend | None = None,
) -> Network:
    """The transformer for clips of one size and the timesteps of one sampler.

    Args:
        size: latent frames, height and width.
        image: what an image model gets beside the noise, on the channel axis.
        attend: the device's fastest dense attention unless given.

    Raises:
        UserError: a size that the model's positions do not know.
    """
    modulation = model.precompute_modulation(torch.tensor(times, device=device), model.config.ofs)
    positions = positions_for(model.config, *size, num_text=num_text, rule=rule, device=device)
    asked = ask(model, positions, num_text + math.prod(token_grid(model.config, *size)), attend)

    def run(x: Tensor, texts: Tensor, i: int) -> Tensor:
        if image is not None:
            x = torch.cat((x.to(dtype), image.to(dtype).expand(len(x), -1, -1, -1, -1)), dim=1)
        x = x.to(dtype)
        batch = x.expand(len(texts), -1, -1, -1, -1) if len(x) == 1 else x.repeat_interleave(len(texts) // len(x), 0)
        return asked(batch, texts, modulation[i])

    return run


def in_turn(net: Network) -> Network:
    """One text after the other instead of all in a batch, which takes less memory."""
    return lambda x, texts, i: torch.cat([net(x, text, i) for text in texts.split(1)])


def guided(
    net: Network,
    texts: Float[Tensor, "b n d"],
    scale: guidance.Guidance,
    num_steps: int,
    *,
    interval: tuple[float, float] = (0.0, 1.0),
) -> Predict:
    """The velocity under classifier-free guidance.

    Args:
        texts: the prompt [1 n d], which is followed without guidance, or what guidance leads away from and the prompt.
        scale: how much, at which timestep.
        interval: guidance in the steps from this fraction of `num_steps` to that; in the others the prompt alone, in
            half the time (Kynkaanniemi et al. 2024).
    """
    first, last = (round(fraction * num_steps) for fraction in interval)

    def predict(x: Tensor, t: int, i: int) -> Tensor:
        if len(texts) == 1 or not first <= i < last:
            return net(x, texts[-1:], i)
        uncond, cond = net(x, texts, i).chunk(2)
        return guidance.combine(cond, uncond, scale(t))

    return predict


def over_windows(
    predicts: Sequence[Predict], windows: Sequence[range], patch_t: int = 1, device: torch.device | str = "cpu"
) -> Predict:
    """The velocity of a long clip from those of windows that share frames (Wang et al. 2023, "Gen-L-Video").

    In each step every window is predicted as a clip of its own, and where windows share frames the predictions are
    averaged, each with more weight the nearer to the middle of its window: so the frames of all windows are one video
    at every moment of the denoising, and none of them is a seam. Of every window but the first, the first `patch_t`
    frames only give it something to go on from: there the network expects the latents of one single frame.

    Args:
        predicts: what each window is predicted with.
    """
    if len(windows) == 1:
        return predicts[0]
    length = len(windows[0])
    ramp = torch.tensor([min(k + 1, length - k) for k in range(length)], dtype=torch.float32)
    later = ramp.clone()
    later[:patch_t] = 0
    weights = [(later if window.start > 0 else ramp).view(-1, 1, 1) for window in windows]
    total = torch.zeros(windows[-1].stop, 1, 1)
    for window, weight in zip(windows, weights):
        total[window.start : window.stop] += weight
    # On the device once, not in every step, which would wait for it.
    shares = [(weight / total[w.start : w.stop]).to(device) for w, weight in zip(windows, weights)]

    def blended(x: Tensor, t: int, i: int) -> Tensor:
        v = torch.zeros_like(x, dtype=torch.float32)
        for predict, window, share in zip(predicts, windows, shares):
            part = slice(window.start, window.stop)
            v[:, :, part] += share * predict(x[:, :, part], t, i).float()
        return v

    return blended


def holding(predict: Predict, known: Float[Tensor, "1 c k h w"], schedule: Schedule) -> Predict:
    """The velocity of a clip whose first latent frames are known: for those, whatever leads to them from where they
    stand, so that any sampler ends there and shows the network, on the way, the known frames under its noise."""
    count = known.shape[2]

    def held(x: Tensor, t: int, i: int) -> Tensor:
        abar = schedule.alphas_cumprod[t].item()
        v = predict(x, t, i).float()
        towards = (math.sqrt(abar) * x[:, :, :count] - known) / math.sqrt(1 - abar)
        return torch.cat((towards, v[:, :, count:]), dim=2)

    return held
