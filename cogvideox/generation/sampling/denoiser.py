"""The sampler's prediction function: the transformer bound to one run, with guidance, windows and known frames.

Axes: b prompts, c latent channels, t latent frames, h w latent size, n text tokens, d text width.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cogvideox.diffusion.guidance import Guidance, combine
from cogvideox.diffusion.objective import output_to_v, x0_to_v
from cogvideox.diffusion.schedule import Schedule
from cogvideox.transformer.acceleration.attention_backends import fastest_backend
from cogvideox.transformer.acceleration.cuda_graphs import GraphedFunction
from cogvideox.transformer.attention import Attend
from cogvideox.transformer.config import PositionRule
from cogvideox.transformer.model import Transformer
from cogvideox.transformer.modulation import Modulation
from cogvideox.transformer.position import positions_for, token_grid

# Maximum number of multiply-adds in the linear layers of a block, for one clip, with which a CUDA graph is recorded. A
# GPU with 400 TFLOP/s computes such a block in half a millisecond, about the time to launch its kernels one by one.
MAX_GRAPH_FLOPS = 2e11

# Maps a noisy state, prompt embeddings and a step index to the velocity for each prompt.
VelocityModel = Callable[[Float[Tensor, "1 c t h w"], Float[Tensor, "b n d"], int], Float[Tensor, "b c t h w"]]


class BoundTransformer:
    """A `VelocityModel`: the transformer with a fixed clip size and the timesteps of one sampler run.

    Values that do not depend on the step are computed once. On a GPU, attention uses the fastest kernel for the shape,
    and a forward pass with short kernels is replayed as a CUDA graph. Results differ by rounding only. Create a new
    object for each run, because a graph reads the weights at their addresses during recording.

    Args:
        timesteps: the sampler's timesteps.
        schedule: the noise schedule, whose prediction type is that of the transformer's output.
        size: latent frames, height and width.
        num_text: number of text tokens per prompt.
        rule: how rotary positions are computed for the size; defaults to the model's rule.
        dtype: the transformer's compute dtype.
        image: image latents for an image-to-video model, concatenated to the input along the channel axis.
        attend: the attention function; defaults to the fastest dense one.

    Raises:
        UserError: the model's position embeddings do not cover the size.
    """

    def __init__(
        self,
        model: Transformer,
        timesteps: Sequence[int],
        schedule: Schedule,
        size: tuple[int, int, int],
        *,
        num_text: int,
        rule: PositionRule | None,
        device: torch.device,
        dtype: torch.dtype,
        image: Float[Tensor, "1 c t h w"] | None = None,
        attend: Attend | None = None,
    ) -> None:
        self.model, self.dtype, self.image, self.attend = model, dtype, image, attend
        self.timesteps, self.schedule = torch.tensor(timesteps), schedule
        self.num_tokens = num_text + math.prod(token_grid(model.config, *size))
        self.modulation = model.precompute_modulation(self.timesteps.to(device), model.config.ofs)
        self.positions = positions_for(model.config, *size, num_text=num_text, rule=rule, device=device)
        self.graph = GraphedFunction(self._forward) if fits_graph(model, self.num_tokens) else None

    def __call__(
        self, x: Float[Tensor, "s c t h w"], prompts: Float[Tensor, "b n d"], i: int
    ) -> Float[Tensor, "b out t h w"]:
        """Return the velocity at step `i` for each prompt, from one shared state or one state per prompt."""
        state = x
        if self.image is not None:
            image = self.image.to(self.dtype).expand(len(x), -1, -1, -1, -1)
            x = torch.cat((x.to(self.dtype), image), dim=1)
        x = x.to(self.dtype)
        batch = _per_prompt(x, len(prompts))
        forward = self._forward if self.graph is None else self.graph
        output = forward(batch, prompts, *self.modulation[i].flat())
        times = self.timesteps[i].expand(len(prompts))
        return output_to_v(output, _per_prompt(state, len(prompts)), times, self.schedule)

    def _forward(self, latents: Tensor, prompts: Tensor, *modulation: Tensor) -> Tensor:
        attend, config = self.attend, self.model.config
        if attend is None:
            heads, batch, dtype, device = config.num_attention_heads, len(latents), latents.dtype, latents.device
            attend = fastest_backend(
                heads, self.num_tokens, batch, dtype, device, head_dim=config.attention_head_dim
            ).attend
        tables = Modulation.from_flat(modulation)
        return self.model(latents, prompts, None, positions=self.positions, modulation=tables, attend=attend)


def _per_prompt(x: Float[Tensor, "s c t h w"], num_prompts: int) -> Float[Tensor, "b c t h w"]:
    """Return one state per prompt, from one shared state or one per prompt."""
    return x.expand(num_prompts, -1, -1, -1, -1) if len(x) == 1 else x.repeat_interleave(num_prompts // len(x), 0)


@dataclass(frozen=True)
class Denoiser:
    """The sampler's prediction function, `denoiser(x, t, i)`, see `diffusion.samplers`.

    Attributes:
        models: one model per window; they differ only in their step caches.
        prompts: [1 n d] without guidance; with guidance [2 n d], the negative or null prompt and then the prompt.
        scale: the guidance scale by timestep; None without guidance.
        guided_steps: steps with guidance (Kynkaanniemi et al. 2024); other steps compute only the prompt, in half the
            time.
        windows: latent frames of each window; None processes the whole clip at once.
        weights: see `window_weights`.
        known, schedule: latents of the known first frames, if any, and the noise schedule.
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
                frames = slice(window.start, window.stop)
                v[:, :, frames] += weight * self._guided(model, x[:, :, frames], t, i).float()
        return v if self.known is None else self._with_known_frames(x, v, t)

    def _guided(self, model: VelocityModel, x: Tensor, t: int, i: int) -> Float[Tensor, "1 c t h w"]:
        """Return the velocity with classifier-free guidance."""
        if self.scale is None or len(self.prompts) == 1 or i not in self.guided_steps:
            return model(x, self.prompts[-1:], i)
        uncond, cond = model(x, self.prompts, i).chunk(2)
        return combine(cond, uncond, self.scale(t))

    def _with_known_frames(self, x: Tensor, v: Tensor, t: int) -> Float[Tensor, "1 c t h w"]:
        """Replace the velocity of the known frames with the velocity from their current state to their latents.

        Any sampler then ends at these latents, and the network input has noised known frames at every step.
        """
        assert self.known is not None
        assert self.schedule is not None
        num_known, abar = self.known.shape[2], self.schedule.alphas_cumprod[t].item()
        known_v = x0_to_v(self.known, x[:, :, :num_known], math.sqrt(abar), math.sqrt(1 - abar))
        return torch.cat((known_v, v.float()[:, :, num_known:]), dim=2)


def window_weights(
    windows: Sequence[range], patch_t: int = 1, device: torch.device | str = "cpu"
) -> list[Float[Tensor, "_t 1 1"]]:
    """Return the weights for averaging overlapping windows of a clip (Wang et al. 2023, "Gen-L-Video").

    At every step, each window is predicted as a separate clip and shared frames are averaged, so that there are no
    seams between windows. Weights rise linearly from the ends of a window to its middle, and sum to 1 over the windows
    that contain a frame. The first `patch_t` frames of every window but the first have weight 0 and serve as context
    only, because the first latent frame of a clip encodes a single frame.
    """
    length = len(windows[0])
    ramp = torch.tensor([min(k + 1, length - k) for k in range(length)], dtype=torch.float32)
    ramp_with_context = ramp.clone()
    ramp_with_context[:patch_t] = 0
    weights = [(ramp_with_context if window.start > 0 else ramp).view(-1, 1, 1) for window in windows]
    total = torch.zeros(windows[-1].stop, 1, 1)
    for window, weight in zip(windows, weights):
        total[window.start : window.stop] += weight
    # Moved to the device here, because a copy in every step would synchronize.
    return [(weight / total[w.start : w.stop]).to(device) for w, weight in zip(windows, weights)]


def predict_sequentially(model: VelocityModel, x: Tensor, prompts: Tensor, i: int) -> Float[Tensor, "b c t h w"]:
    """Run the prompts one after the other instead of as a batch, to save memory."""
    return torch.cat([model(x, prompt, i) for prompt in prompts.split(1)])


def fits_graph(model: Transformer, num_tokens: int) -> bool:
    """Return whether the forward pass is short enough for a CUDA graph and has no hooks, which it cannot replay."""
    has_hooks = any(block._forward_pre_hooks for block in model.blocks)
    return not has_hooks and 24 * num_tokens * model.config.width**2 <= MAX_GRAPH_FLOPS
