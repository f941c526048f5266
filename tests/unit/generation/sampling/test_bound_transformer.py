"""The bound transformer equals the plain one; `tests/gpu/test_speed.py` tests CUDA graphs."""

import pytest
import torch

from cogvideox.generation.sampling import bound_transformer
from cogvideox.generation.sampling.bound_transformer import BoundTransformer, fits_graph
from cogvideox.transformer.model import Transformer
from tests import tiny


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("variant", ["2b", "5b"])
def test_it_equals_the_plain_transformer(variant, small, monkeypatch):
    monkeypatch.setattr(bound_transformer, "MAX_GRAPH_FLOPS", 2e11 if small else 0)
    torch.manual_seed(0)
    model = Transformer(tiny.TRANSFORMERS[variant]).requires_grad_(False)
    latents, text, times = torch.randn(2, 4, 2, 4, 6), torch.randn(2, 12, 32), torch.tensor([900, 100])
    where = {"device": torch.device("cpu"), "dtype": torch.float32}
    bound = BoundTransformer(model, times.tolist(), (2, 4, 6), num_text=12, rule=None, **where)
    assert bound.num_tokens == 12 + 2 * 2 * 3
    for step, time in enumerate(times):
        torch.testing.assert_close(bound(latents, text, step), model(latents, text, time.expand(2)))


def test_blocks_with_hooks_are_not_recorded():
    model = Transformer(tiny.TRANSFORMERS["2b"])
    assert fits_graph(model, 24)
    model.blocks[1].register_forward_pre_hook(lambda block, args: None)
    assert not fits_graph(model, 24)
