"""The adaptive norm and the gated sum equal their formulas, with gradients, for any spans."""

import pytest
import torch
import torch.nn.functional as F

from cogvideox.transformer.modulation import AdaptiveNorm, BlockModulation, FinalModulation, Modulation, add_gated

SPANS = [(3, 5), (1, 7), (8,), (0, 8), (2, 1, 3, 2)]


def per_token(table, spans):
    """Expand vectors per span to vectors per token."""
    return table.repeat_interleave(torch.tensor(spans), dim=1)


def norm_by_formula(norm, x, shift, scale, spans):
    normalized = F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps)
    return normalized * (1 + per_token(scale, spans)) + per_token(shift, spans)


def random_norm(width):
    norm = AdaptiveNorm(width, eps=1e-5)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    return norm.double()


def random_leaf(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("spans", SPANS, ids=str)
@pytest.mark.parametrize("table_batch", [1, 2])
def test_values_and_gradients_equal_the_formula(spans, table_batch):
    norm = random_norm(6)
    x, update = random_leaf(2, 8, 6), random_leaf(2, 8, 6)
    shift, scale, gate = (random_leaf(table_batch, len(spans), 6) for _ in range(3))
    leaves = [x, update, shift, scale, gate, norm.weight, norm.bias]
    weights = torch.randn(2, 8, 6, dtype=torch.float64)

    actual = add_gated(x, update, gate, spans) + norm(x, *norm.fold(shift, scale), spans)
    expected = x + per_token(gate, spans) * update + norm_by_formula(norm, x, shift, scale, spans)

    torch.testing.assert_close(actual, expected)
    for gradient, expected_gradient in zip(
        torch.autograd.grad((actual * weights).sum(), leaves), torch.autograd.grad((expected * weights).sum(), leaves)
    ):
        torch.testing.assert_close(gradient, expected_gradient)


def test_gradients_with_frozen_inputs():
    x, update = random_leaf(1, 8, 6), random_leaf(1, 8, 6)
    gate = torch.randn(1, 2, 6, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(add_gated(x.detach(), update, gate, (3, 5)).sum(), [update])
    torch.testing.assert_close(gradient, per_token(gate, (3, 5)))


def test_mixed_dtypes_promote():
    """As under autocast: the stream is float32, and the output of a matrix product is bfloat16."""
    x, update, gate = torch.randn(1, 8, 6), torch.randn(1, 8, 6).bfloat16(), torch.randn(1, 2, 6).bfloat16()
    x.requires_grad_()
    update.requires_grad_()
    total = add_gated(x, update, gate, (3, 5))
    total.sum().backward()
    assert (total.dtype, x.grad.dtype, update.grad.dtype) == (torch.float32, torch.float32, torch.bfloat16)


def test_modulation_of_one_timestep():
    blocks = tuple(BlockModulation(*(torch.randn(5, 2, 4),) * 6) for _ in range(3))
    tables = Modulation(blocks, FinalModulation(*(torch.randn(5, 1, 4),) * 2))
    assert len(tables) == 5
    assert len(tables[1]) == 1
    assert torch.equal(tables[-1].blocks[2].attention_shift[0], tables.blocks[2].attention_shift[4])
    assert [len(step) for step in tables] == [1] * 5
    with pytest.raises(IndexError):
        tables[5]


def test_from_flat_inverts_flat():
    tables = [torch.randn(1, 2, 4) for _ in range(14)]
    blocks = BlockModulation(*tables[:6]), BlockModulation(*tables[6:12])
    modulation = Modulation(blocks, FinalModulation(*tables[12:]))
    assert all(a is b for a, b in zip(modulation.flat(), tables, strict=True))
    assert Modulation.from_flat(modulation.flat()) == modulation
