"""CFG parallelism: compute the conditional and unconditional predictions of guidance on different ranks.

Sequence parallelism (`ulysses`) further splits each prediction.

Axes: b prompts, c latent channels, t latent frames, h w latent size, n text tokens, d text width.
"""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor
from torch.distributed import ProcessGroup

from cogvideox.errors import UserError
from cogvideox.parallel.collectives import all_gather_stack

# Maps noisy latents, prompt embeddings and step index to the velocity for each prompt.
Denoiser = Callable[[Float[Tensor, "1 c t h w"], Float[Tensor, "b n d"], int], Float[Tensor, "b c t h w"]]


def parallelize_cfg(net: Denoiser, group: ProcessGroup) -> Denoiser:
    """Split the prompts of each call over the ranks of a group, if the number of ranks divides that of prompts."""
    size, rank = group.size(), group.rank()

    def run(x: Tensor, prompts: Tensor, i: int) -> Tensor:
        if size == 1 or len(prompts) % size:
            return net(x, prompts, i)
        return all_gather_stack(net(x, prompts.chunk(size)[rank], i), group).flatten(0, 1)

    return run


def sequence_degree(num_ranks: int, num_heads: int, *, guided: bool) -> int:
    """Return the sequence-parallel degree: all ranks, or half of them with guidance (`guided`).

    Raises:
        UserError: the attention heads cannot be split over that many ranks; the message lists valid numbers.
    """
    cfg_degree = 2 if guided and num_ranks % 2 == 0 else 1
    if num_heads % (num_ranks // cfg_degree) == 0:
        return num_ranks // cfg_degree
    degrees = [n for n in range(1, num_heads + 1) if num_heads % n == 0]
    valid = sorted({*degrees, *(2 * n for n in degrees)} if guided else degrees)
    raise UserError(
        f"{num_ranks} processes cannot share this model's {num_heads} attention heads"
        f"{' and the two predictions of guidance' if guided else ''}; valid numbers: {', '.join(map(str, valid))}"
    )
