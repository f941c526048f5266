"""Editing by DDIM inversion, as the official repository does it (its `inference/ddim_inversion.py`).

The clip is inverted to noise without a prompt, and every state on the way is kept. The new video starts from fresh
noise; at each step the state of the clip with just as much noise goes through the network beside it, and the new video
attends to the clip's keys and values as well as to its own. It takes over composition and motion, and the prompt says
what they show.

Axes: b batch, c latent channels, t latent frames, h w latent size, n tokens, k heads.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from cogvideox.generation.sampling.denoisers import Network
from cogvideox.transformer.attention import Heads, Layout


def attend_to_reference(q: Heads, k: Heads, v: Heads, layout: Layout) -> Heads:
    """Attention for a batch whose second half is the reference: the first half attends to both, the second to itself.

    Positions were applied before, to each half alike, so that a place in the new video is the same place in the clip.
    """
    (q, q_ref), (k, k_ref), (v, v_ref) = (x.transpose(1, 2).chunk(2) for x in (q, k, v))
    edited = F.scaled_dot_product_attention(q, torch.cat((k, k_ref), dim=2), torch.cat((v, v_ref), dim=2))
    reference = F.scaled_dot_product_attention(q_ref, k_ref, v_ref)
    return torch.cat((edited, reference)).transpose(1, 2)


def beside_reference(net: Network, trajectory: Sequence[Float[Tensor, "1 c t h w"]]) -> Network:
    """A network that attends with `attend_to_reference`, given the states of the clip at each step.

    Both halves read the same texts, as in the official code.
    """

    def run(x: Tensor, texts: Tensor, i: int) -> Tensor:
        both = torch.cat((x, trajectory[i]))
        return net(both, torch.cat((texts, texts)), i)[: len(texts)]

    return run
