"""Video editing by DDIM inversion, as in `inference/ddim_inversion.py` of the official repository.

The original video is inverted to noise with the null prompt, and its state at each step is saved. The edited video
starts from new noise. At each step, the batch also contains the state of the original at the same noise level, and the
edited video attends to the keys and values of both. This preserves layout and motion; the prompt determines the
content.

Axes: b batch, c latent channels, t latent frames, h w latent size, n tokens, k heads.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from cogvideox.generation.sampling.denoiser import VelocityModel
from cogvideox.transformer.attention import Heads, Keys, StreamLayout


def attend_to_reference(q: Heads, k: Keys, v: Keys, layout: StreamLayout) -> Heads:
    """Attention for a batch whose second half is a reference: the first half attends to both, the second to itself.

    Both halves must have the same position embeddings.
    """
    (q, q_ref), (k, k_ref), (v, v_ref) = (x.transpose(1, 2).chunk(2) for x in (q, k, v))
    edited = F.scaled_dot_product_attention(q, torch.cat((k, k_ref), dim=2), torch.cat((v, v_ref), dim=2))
    reference = F.scaled_dot_product_attention(q_ref, k_ref, v_ref)
    return torch.cat((edited, reference)).transpose(1, 2)


def predict_with_reference(
    model: VelocityModel, states: Sequence[Float[Tensor, "1 c t h w"]], x: Tensor, prompts: Tensor, i: int
) -> Float[Tensor, "b c t h w"]:
    """Return the velocity of the edited video at step `i`, with the original's state as the second half of the batch.

    The model must attend with `attend_to_reference`. Both halves have the same prompts, as in the official code.
    """
    return model(torch.cat((x, states[i])), torch.cat((prompts, prompts)), i)[: len(prompts)]
