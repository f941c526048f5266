"""How good the averaged weights are: the loss at fixed noise, and samples to look at.

Both use the same clips, noise, timesteps and prompts at every call, so that two calls differ by the weights alone.
"""

import torch
from einops import repeat
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from cogvideox.diffusion.guidance import combine
from cogvideox.diffusion.objective import add_noise, loss_per_sample, v_target
from cogvideox.diffusion.samplers import SAMPLERS, initial_noise
from cogvideox.diffusion.schedule import Schedule
from cogvideox.diffusion.timesteps import trailing
from cogvideox.training.config import ToyboxSampling
from cogvideox.training.metrics import timestep_bins
from cogvideox.training.rng import torch_generator
from cogvideox.training.toybox.model import TextToVideo
from cogvideox.vae.model import CausalVAE
from cogvideox.video.transform import to_frames


@torch.no_grad()
def velocity_loss(
    model: TextToVideo,
    latents: Float[Tensor, "n c t h w"],
    ids: Int[Tensor, "n m"],
    schedule: Schedule,
    *,
    seed: int,
    batch_size: int = 32,
) -> dict[str, float]:
    """The velocity loss of scaled latents under their captions, over all timesteps and in parts of their range: see
    `bins.validation`."""
    timesteps = timestep_bins.spread(len(latents), schedule.num_train_timesteps)
    noise = torch.randn(latents.shape, generator=torch_generator("validation", seed))
    losses = []
    for rows in torch.arange(len(latents)).split(batch_size):
        x0, t, eps = (part[rows].to(latents.device) for part in (latents, timesteps, noise))
        predicted = model(add_noise(x0, eps, t, schedule), ids[rows], t)
        losses.append(loss_per_sample(predicted, v_target(x0, eps, t, schedule)).cpu())
    return timestep_bins.validation(torch.cat(losses), timesteps, schedule.num_train_timesteps)


@torch.no_grad()
def sample(
    model: TextToVideo,
    vae: CausalVAE,
    ids: Int[Tensor, "n m"],
    null: Int[Tensor, "m"],
    shape: tuple[int, int, int, int],
    schedule: Schedule,
    settings: ToyboxSampling,
    *,
    seed: int,
) -> UInt8[Tensor, "n t h w 3"]:
    """Videos for some prompts, under guidance against the empty prompt `null`; `shape` is [c t h w] of the latents."""
    generator = torch_generator("sample", seed)
    noise = initial_noise((len(ids), *shape), generator, ids.device)
    both = torch.cat([ids, repeat(null, "m -> n m", n=len(ids))])

    def predict(x: Tensor, t: int, _: int) -> Tensor:
        timestep = torch.full((len(both),), t, device=x.device)
        conditional, unconditional = model(torch.cat([x, x]), both, timestep).chunk(2)
        return combine(conditional, unconditional, settings.guidance_scale)

    times = trailing(settings.num_inference_steps, schedule.num_train_timesteps)
    latents = SAMPLERS[settings.sampler](predict, noise, times, schedule, generator=generator)
    videos = torch.cat([vae.decode(one) for one in (latents / vae.config.scaling_factor).split(4)])
    return to_frames(videos).cpu()
