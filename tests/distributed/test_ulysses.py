"""Ulysses sequence parallelism: forward and backward passes of the transformer equal those of one process."""

from dataclasses import replace

import pytest
import torch

from cogvideox.errors import UserError
from cogvideox.parallel.mesh import Ranks
from cogvideox.parallel.parallelize import average_gradients
from cogvideox.parallel.ulysses import apply_ulysses, check_heads, local_layout
from cogvideox.transformer.attention import StreamLayout
from cogvideox.transformer.model import Transformer
from tests import tiny
from tests.distributed.compare import close, close_all, take_gradients
from tests.distributed.spawn import on_ranks


def make_model(variant: str) -> Transformer:
    torch.manual_seed(0)
    model = Transformer(replace(tiny.transformer(variant), num_attention_heads=4, time_embed_dim=16))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def check(ranks: Ranks, variant: str, packed: bool) -> None:
    model = make_model(variant)
    sizes = [(1, 4, 6), (3, 4, 6)] if packed else [(3, 4, 6)]
    if model.config.patch_size_t:
        sizes = [(2 * t, h, w) for t, h, w in sizes]
    clips = [torch.randn(4, *size) for size in sizes]
    text, times = torch.randn(len(sizes), tiny.TEXT_LENGTH, 32), torch.tensor([999, 500][: len(sizes)])

    def run() -> list[torch.Tensor]:
        outputs = model.forward_packed(clips, text, times) if packed else [model(clips[0][None], text, times)]
        sum(out.square().mean() for out in outputs).backward()
        return outputs

    expected_outputs, expected_gradients = run(), take_gradients(model)
    remove_hooks = apply_ulysses(model, ranks.sequence)
    for actual, expected in zip(run(), expected_outputs):
        close(actual, expected, "output")
    average_gradients(model.parameters(), ranks.world)
    close_all(take_gradients(model), expected_gradients)
    remove_hooks()
    assert torch.equal(run()[0], expected_outputs[0])


@pytest.mark.parametrize("variant", ["2b", "5b", "1.5-5b"])
@pytest.mark.parametrize("world", [2, 4])
def test_one_clip_equals_one_process(world, variant):
    on_ranks(world, check, variant, False, sequence=world)


@pytest.mark.parametrize("world", [2, 4])
def test_packed_clips_equal_one_process(world):
    on_ranks(world, check, "5b", True, sequence=world)


def test_layout_of_each_rank():
    parts = [local_layout(StreamLayout((3, 4, 3, 1)), rank, 4) for rank in range(4)]
    assert [part.spans for part in parts] == [(2, 0, 0, 0), (1, 2, 0, 0), (0, 2, 1, 0), (0, 0, 2, 1)]
    assert parts[0].lengths == (2, 3, 3, 3)


def test_the_number_of_ranks_must_divide_the_heads():
    with pytest.raises(
        UserError, match=r"4 processes cannot share the 30 attention heads.*; valid numbers: 1, 2, 3, 5, 6, 10"
    ):
        check_heads(30, 4)
