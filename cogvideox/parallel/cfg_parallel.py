"""Generation over ranks: the halves of guidance on two rows of them, the tokens of each half on the ranks of a row.

Axes: b texts, c latent channels, t latent frames, h w latent size, n text tokens, d text width.
"""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor
from torch.distributed import ProcessGroup

from cogvideox.errors import UserError
from cogvideox.parallel.collectives import gather_equal

# A state, the texts and the index of a step to the velocity under each of the texts.
Network = Callable[[Float[Tensor, "1 c t h w"], Float[Tensor, "b n d"], int], Float[Tensor, "b c t h w"]]


def parallelize_cfg(net: Network, group: ProcessGroup) -> Network:
    """The network with its texts shared among the ranks of a group; where they cannot be, each has them all."""
    size, rank = group.size(), group.rank()

    def run(x: Tensor, texts: Tensor, i: int) -> Tensor:
        if size == 1 or len(texts) % size:
            return net(x, texts, i)
        return gather_equal(net(x, texts.chunk(size)[rank], i), group).flatten(0, 1)

    return run


def sequence_degree(num_ranks: int, num_heads: int, *, guided: bool) -> int:
    """How many ranks share the tokens of a clip: half of them where there is guidance, whose halves the others share.

    Raises:
        UserError: so many ranks cannot share the heads; the message has the numbers that can.
    """
    rows = 2 if guided and num_ranks % 2 == 0 else 1
    if num_heads % (num_ranks // rows) == 0:
        return num_ranks // rows
    degrees = [n for n in range(1, num_heads + 1) if num_heads % n == 0]
    legal = sorted({*degrees, *(2 * n for n in degrees)} if guided else degrees)
    raise UserError(
        f"{num_ranks} processes cannot share this model's work, because it has {num_heads} attention heads"
        f"{' and guidance two halves' if guided else ''}; {', '.join(map(str, legal))} can"
    )
