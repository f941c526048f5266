"""The transformer bound to one sampler run: everything that stays the same over its steps is computed once.

On a GPU, attention uses the fastest kernel for the shape. Where kernels are so short that launching them takes longer
than running them, the forward pass is replayed as a CUDA graph. Neither changes the result.

Axes: b batch, c latent channels, t latent frames, h w latent size, n text tokens, d text width.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from cogvideox.transformer.attention import Attend
from cogvideox.transformer.attention_backends import fastest_backend
from cogvideox.transformer.config import GridRule
from cogvideox.transformer.cuda_graphs import GraphedFunction
from cogvideox.transformer.model import Transformer
from cogvideox.transformer.modulation import Modulation
from cogvideox.transformer.position import positions_for, token_grid

# Multiply-adds in one block's linear layers, for one clip, up to which a CUDA graph is recorded. A GPU of 400 TFLOP/s
# spends half a millisecond on such a block, and launching its kernels one by one takes about as long.
MAX_GRAPH_FLOPS = 2e11


class BoundTransformer:
    """Predicts the velocity of clips of one size at the timesteps of one sampler run.

    Use it for that run only: a CUDA graph reads the weights where they were when it was recorded.

    Args:
        times: the sampler's timesteps.
        size: latent frames, height and width.
        num_text: text tokens of a prompt.
        rule: how rotary positions follow the size; None for the model's own rule.
        dtype: what the transformer computes in.
        image: image latents of an image-to-video model, concatenated to the input on the channel axis.
        attend: the attention function; the fastest dense one by default.

    Raises:
        UserError: a size that the model's positions do not cover.
    """

    def __init__(
        self,
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
    ) -> None:
        self.model, self.dtype, self.image, self.attend = model, dtype, image, attend
        self.num_tokens = num_text + math.prod(token_grid(model.config, *size))
        self.modulation = model.precompute_modulation(torch.tensor(times, device=device), model.config.ofs)
        self.positions = positions_for(model.config, *size, num_text=num_text, rule=rule, device=device)
        self.graph = GraphedFunction(self._forward) if fits_graph(model, self.num_tokens) else None

    def __call__(
        self, x: Float[Tensor, "s c t h w"], prompts: Float[Tensor, "b n d"], i: int
    ) -> Float[Tensor, "b out t h w"]:
        """The velocity at step `i` under each prompt, from one state for all prompts or one for each."""
        if self.image is not None:
            image = self.image.to(self.dtype).expand(len(x), -1, -1, -1, -1)
            x = torch.cat((x.to(self.dtype), image), dim=1)
        x = x.to(self.dtype)
        if len(x) == 1:
            batch = x.expand(len(prompts), -1, -1, -1, -1)
        else:
            batch = x.repeat_interleave(len(prompts) // len(x), 0)
        forward = self._forward if self.graph is None else self.graph
        return forward(batch, prompts, *self.modulation[i].flat())

    def _forward(self, latents: Tensor, prompts: Tensor, *modulation: Tensor) -> Tensor:
        attend, config = self.attend, self.model.config
        if attend is None:
            heads, batch, dtype, device = config.num_attention_heads, len(latents), latents.dtype, latents.device
            attend = fastest_backend(
                heads, self.num_tokens, batch, dtype, device, head_dim=config.attention_head_dim
            ).attend
        tables = Modulation.from_flat(modulation)
        return self.model(latents, prompts, None, positions=self.positions, modulation=tables, attend=attend)


def fits_graph(model: Transformer, num_tokens: int) -> bool:
    """Whether a forward pass is short and all weights stay in place: hooks that load weights cannot be replayed."""
    hooked = any(block._forward_pre_hooks for block in model.blocks)
    return not hooked and 24 * num_tokens * model.config.width**2 <= MAX_GRAPH_FLOPS
