"""Initial weights of the transformer."""

from dataclasses import replace

import pytest
import torch

from cogvideox.transformer.init_weights import init_weights, whiten_text_projection
from cogvideox.transformer.model import Transformer
from tests import tiny


def embeddings(width: int) -> torch.Tensor:
    """Embeddings whose standard deviations differ 100-fold between directions, with a large mean."""
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(4096, width, generator=generator) * torch.logspace(0, -2, width)
    return values @ torch.linalg.qr(torch.randn(width, width, generator=generator))[0] + 3


@pytest.mark.parametrize("text_width", [8, 64], ids=["narrower than the model", "wider than the model"])
def test_the_whitened_text_projection_has_equal_variances(text_width):
    model = Transformer(replace(tiny.transformer("2b"), text_embed_dim=text_width))
    init_weights(model, torch.Generator().manual_seed(0))
    text = embeddings(text_width)
    whiten_text_projection(model, text, torch.Generator().manual_seed(0), shrinkage=1e-9)
    with torch.no_grad():
        out = model.text_in(text).double()
    assert out.mean(0).abs().max() < 1e-3
    variances = torch.linalg.eigvalsh(torch.cov(out.T)).flip(0)[: min(text_width, out.shape[1])]
    torch.testing.assert_close(variances, torch.ones_like(variances), rtol=1e-3, atol=0)


def test_shrinkage_limits_the_gain_of_directions_without_variance():
    model = Transformer(replace(tiny.transformer("2b"), text_embed_dim=8))
    text = embeddings(8)
    text[:, 0] = 1.0  # a direction without variance
    whiten_text_projection(model, text, torch.Generator().manual_seed(0), shrinkage=0.01)
    largest = torch.linalg.svdvals(model.text_in.weight.detach()).max()
    assert largest <= (0.01 * torch.cov(text.T).trace() / 8) ** -0.5 * 1.001
