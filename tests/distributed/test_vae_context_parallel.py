"""Context parallelism: forward and backward passes of the VAE equal those of one process."""

from itertools import accumulate

import pytest
import torch

from cogvideox import geometry
from cogvideox.errors import UserError
from cogvideox.parallel import vae_chunk_parallel
from cogvideox.parallel.mesh import Ranks
from cogvideox.parallel.parallelize import average_gradients
from cogvideox.parallel.vae_context_parallel import HaloCache, frames_per_rank, latents_per_rank, local_frames
from cogvideox.vae.causal_conv import ConvCache, StreamingCache
from cogvideox.vae.config import VAEConfig
from cogvideox.vae.init_weights import init_weights
from cogvideox.vae.losses.discriminator import Discriminator, DiscriminatorConfig
from cogvideox.vae.model import CausalVAE
from tests.distributed.compare import close, close_all, take_gradients
from tests.distributed.spawn import on_ranks

CONFIG = VAEConfig(block_out_channels=(8, 8, 16, 16), norm_num_groups=4, layers_per_block=1, latent_channels=4)


def make_vae() -> CausalVAE:
    vae, generator = CausalVAE(CONFIG), torch.Generator().manual_seed(0)
    init_weights(vae, generator)
    with torch.no_grad():
        for parameter in vae.parameters():  # so that no weight is zero or an identity
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return vae


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def check_network(ranks: Ranks, name: str, lengths: tuple[int, ...]) -> None:
    """Compare one pass over the whole clip: outputs, and gradients of the input and of every weight."""
    vae = make_vae()
    x = noise(2, 3, sum(frames_per_rank(lengths)), 16, 24) if name == "encoder" else noise(2, 4, sum(lengths), 2, 3)
    in_lengths, out_lengths = frames_per_rank(lengths), lengths
    if name == "decoder":
        in_lengths, out_lengths = out_lengths, in_lengths
    network = getattr(vae, name)

    full = x.clone().requires_grad_()
    expected = network(full, ConvCache())
    weight = noise(*expected.shape)  # a loss without symmetries
    ((expected * weight).sum() / weight.numel()).backward()
    gradients = take_gradients(vae)

    part = local_frames(x, in_lengths, ranks.rank).clone().requires_grad_()
    output = network(part, HaloCache(ranks.world, in_lengths))
    close(output, local_frames(expected, out_lengths, ranks.rank), "output")
    ((output * local_frames(weight, out_lengths, ranks.rank)).sum() * ranks.size / weight.numel()).backward()
    # The sum of the ranks' losses is `size` times the loss of one process.
    close(part.grad / ranks.size, local_frames(full.grad, in_lengths, ranks.rank), "input")
    average_gradients(network.parameters(), ranks.world)
    close_all(take_gradients(vae), gradients)


def check_rounds(ranks: Ranks, name: str, rounds: list[tuple[int, ...]]) -> None:
    """Compare a long clip in parts, each split over the ranks, with `StreamingCache` on the same parts."""
    vae = make_vae()
    total = sum(map(sum, rounds))
    x = noise(1, 3, total, 16, 16) if name == "encoder" else noise(1, 4, total, 2, 2)
    network, pieces = getattr(vae, name), x.split([sum(lengths) for lengths in rounds], dim=2)

    def run(conv_cache, select):
        outputs = []
        for index, piece in enumerate(pieces):
            outputs.append(network(select(piece, index), conv_cache))
            conv_cache.advance(is_last=index == len(pieces) - 2)
        return outputs

    expected = run(StreamingCache(), lambda piece, index: piece)
    sum(out.square().mean() for out in expected).backward()
    gradients = take_gradients(vae)
    outputs = run(HaloCache(ranks.world, *rounds), lambda piece, index: local_frames(piece, rounds[index], ranks.rank))
    sum(part.square().sum() * ranks.size / out.numel() for part, out in zip(outputs, expected)).backward()
    average_gradients(network.parameters(), ranks.world)
    for part, out in zip(outputs, expected):
        counts = [torch.zeros(()) for _ in range(ranks.size)]
        torch.distributed.all_gather(counts, torch.tensor(float(part.shape[2])))
        ends = [int(end) for end in accumulate(counts)]
        close(part, out[:, :, ends[ranks.rank] - part.shape[2] : ends[ranks.rank]], name)
    close_all(take_gradients(vae), gradients)


def check_discriminator(ranks: Ranks, lengths: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(DiscriminatorConfig(width=4, max_width=8))
    x = noise(1, 3, sum(frames_per_rank(lengths)), 16, 16)
    expected = discriminator(x)
    expected.square().mean().backward()
    gradients = take_gradients(discriminator)
    output = discriminator(
        local_frames(x, frames_per_rank(lengths), ranks.rank), HaloCache(ranks.world, frames_per_rank(lengths))
    )
    close(output, local_frames(expected, lengths, ranks.rank))
    (output.square().sum() * ranks.size / expected.numel()).backward()
    average_gradients(discriminator.parameters(), ranks.world)
    close_all(take_gradients(discriminator), gradients)


@torch.no_grad()
def check_decode_stream(ranks: Ranks, num_latents: int) -> None:
    vae, z = make_vae(), noise(1, 4, num_latents, 2, 3)
    expected_chunks = list(vae.decode_stream(z))
    for strips in (1, 2):
        chunks = list(vae_chunk_parallel.decode_stream(vae, z, ranks.world, strips=strips))
        assert len(chunks) == len(expected_chunks)
        for actual, expected in zip(chunks, expected_chunks):
            close(actual, expected)
            assert strips > 1 or torch.equal(actual, expected)


@pytest.mark.parametrize("name", ["encoder", "decoder"])
@pytest.mark.parametrize("lengths", [(3, 2), (2, 3), (2, 1), (5, 1), (2, 1, 3, 1), (3, 2, 2, 2)], ids=str)
def test_one_pass_equals_one_process(name, lengths):
    on_ranks(len(lengths), check_network, name, lengths)


@pytest.mark.parametrize(
    ("name", "rounds"),
    [("decoder", [(2, 1), (1, 1), (1, 2)]), ("encoder", [(5, 8), (4, 4)]), ("decoder", [(2, 1, 1, 1), (1, 1, 1, 1)])],
)
def test_pieces_equal_streaming(name, rounds):
    on_ranks(len(rounds[0]), check_rounds, name, rounds)


def test_discriminator_equals_one_process():
    on_ranks(2, check_discriminator, (2, 3))


@pytest.mark.parametrize(("world", "num_latents"), [(2, 1), (2, 3), (2, 6), (2, 7), (4, 5), (4, 13)])
def test_chunk_parallel_decoding_equals_one_process(world, num_latents):
    on_ranks(world, check_decode_stream, num_latents)


def test_frames_are_split_evenly():
    assert latents_per_rank(13, 4) == (4, 3, 3, 3)
    assert frames_per_rank((4, 3, 3, 3)) == (13, 12, 12, 12)
    assert latents_per_rank(6, 4) == (2, 1, 1, 2)
    assert latents_per_rank(1, 1) == (1,)
    for num_latents, size in [(5, 2), (9, 3), (42, 8)]:
        lengths = latents_per_rank(num_latents, size)
        assert sum(lengths) == num_latents
        assert sum(frames_per_rank(lengths)) == geometry.video_frames(num_latents)
    with pytest.raises(UserError, match=r"9 frames are too few for context parallelism on 4 processes.*use 17 frames"):
        latents_per_rank(3, 4)
