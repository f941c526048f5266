"""Packed attention with the varlen kernel."""

import pytest
import torch

from cogvideox.parallel.parallelize import parallelize
from cogvideox.transformer import attention
from cogvideox.transformer.attention import packed_layout
from cogvideox.transformer.model import Transformer
from tests.tiny import TEXT_LENGTH, TRANSFORMERS
from tests.varlen import varlen_on_cpu

SIZES = [(1, 4, 6), (3, 4, 6), (2, 6, 4)]


def random_model() -> Transformer:
    torch.manual_seed(0)
    model = Transformer(TRANSFORMERS["5b"])
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model


def loss_and_gradients(model: Transformer) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    clips = [torch.randn(4, *size, generator=generator) for size in SIZES]
    text = torch.randn(len(SIZES), TEXT_LENGTH, 32, generator=generator)
    with torch.autocast("cpu", torch.bfloat16):
        loss = sum(v.float().square().mean() for v in model.forward_packed(clips, text, torch.tensor([3, 500, 999])))
    return [loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))]


def test_varlen_equals_attention_clip_by_clip():
    expected = loss_and_gradients(random_model())
    with varlen_on_cpu():
        actual = loss_and_gradients(random_model())
    max_gradient = max(grad.abs().max() for grad in expected[1:])
    for a, b in zip(actual, expected):
        assert (a - b).abs().max() < 0.02 * max(b.abs().max(), 0.1 * max_gradient)


@pytest.mark.parametrize(("checkpointing", "times"), [("none", 1), ("full", 2), ("selective", 1)])
def test_selective_checkpointing_keeps_packed_attention(checkpointing, times):
    model = random_model()
    parallelize(model, model.blocks, checkpointing=checkpointing)
    with varlen_on_cpu() as calls:
        loss_and_gradients(model)
    assert len(calls) == times * len(model.blocks)


@pytest.mark.parametrize(("capability", "expected"), [((7, 0), False), ((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_older_gpus_have_no_varlen_kernel(capability, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert attention.has_varlen_kernel(torch.device("cuda")) is expected


def test_a_packed_layout_has_offsets_only_with_the_varlen_kernel():
    layout = packed_layout(2, [3, 4], torch.device("cpu"))
    assert layout.span_of_token.tolist() == [0, 0, 1, 1, 1, 2, 2, 3, 3, 3, 3]
    assert (layout.offsets, layout.max_segment_length) == (None, 6)
    with varlen_on_cpu():
        offsets = packed_layout(2, [3, 4], torch.device("cpu")).offsets
    assert offsets.tolist() == [0, 5, 11] and offsets.dtype == torch.int32
