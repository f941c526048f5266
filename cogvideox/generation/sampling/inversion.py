"""Edit a video by DDIM inversion, as the official repository does (its `inference/ddim_inversion.py`).

The video is inverted to noise without a prompt, and its state at each step is kept. The edited video starts from fresh
noise. At each step the network also gets the state of the original at the same noise level, and the edited video
attends to the keys and values of both. It keeps layout and motion of the original; the prompt says what they show.

Axes: b batch, c latent channels, t latent frames, h w latent size, n tokens, k heads.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from cogvideox.generation.sampling.denoiser import VelocityModel
from cogvideox.transformer.attention import Heads, StreamLayout


def attend_to_reference(q: Heads, k: Heads, v: Heads, layout: StreamLayout) -> Heads:
    """Attention for a batch whose second half is a reference: the first half attends to both, the second to itself.

    Positions have been applied to each half alike, so the same place in both videos has the same position.
    """
    (q, q_ref), (k, k_ref), (v, v_ref) = (x.transpose(1, 2).chunk(2) for x in (q, k, v))
    edited = F.scaled_dot_product_attention(q, torch.cat((k, k_ref), dim=2), torch.cat((v, v_ref), dim=2))
    reference = F.scaled_dot_product_attention(q_ref, k_ref, v_ref)
    return torch.cat((edited, reference)).transpose(1, 2)


def predict_with_reference(
    model: VelocityModel, states: Sequence[Float[Tensor, "1 c t h w"]], x: Tensor, prompts: Tensor, i: int
) -> Float[Tensor, "b c t h w"]:
    """The velocity from a model that attends with `attend_to_reference`, beside the original's state at step `i`.

    Both halves of the batch get the same prompts, as in the official code.
    """
    return model(torch.cat((x, states[i])), torch.cat((prompts, prompts)), i)[: len(prompts)]
