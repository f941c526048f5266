"""The T5 encoder: position buckets, sizes, half precision, initialization and keymap."""

import pytest
import torch

from cogvideox.errors import UserError
from cogvideox.state_dict.key_rules import to_external, to_internal
from cogvideox.text import checkpoint_keys as text_keys
from cogvideox.text import init_weights as text_init
from cogvideox.text.config import T5Config
from cogvideox.text.encoder import T5Encoder, position_buckets

SMALL = T5Config(vocab_size=99, d_model=32, d_kv=8, d_ff=64, num_layers=3, num_heads=4)


def initialized(config: T5Config = SMALL, seed: int = 0) -> T5Encoder:
    encoder = T5Encoder(config)
    text_init.init_weights(encoder, torch.Generator().manual_seed(seed))
    return encoder


def test_xxl_has_4_76_billion_parameters():
    with torch.device("meta"):
        encoder = T5Encoder(T5Config())
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 4_762_310_656


def test_buckets_are_exact_for_short_and_logarithmic_for_long_distances():
    row = position_buckets(301, 32, 128, torch.device("cpu"))[150]
    before, after = row[:151].flip(0), row[150:]  # by distance 0, 1, 2, ...
    assert before[:8].tolist() == list(range(8))
    assert (before.diff() >= 0).all()
    assert before[128:].unique().tolist() == [15]
    assert after[0] == before[0] == 0
    assert torch.equal(after[1:], before[1:] + 16)


def test_buckets_do_not_depend_on_the_context_length():
    long_context = position_buckets(226, 32, 128, torch.device("cpu"))
    assert torch.equal(long_context[50:90, 50:90], position_buckets(40, 32, 128, torch.device("cpu")))


@torch.no_grad()
def test_rows_of_a_batch_are_independent():
    encoder, ids = initialized(), torch.randint(99, (3, 12))
    batch = encoder(ids)
    separate = torch.cat([encoder(row[None]) for row in ids])
    torch.testing.assert_close(batch, separate)


@torch.no_grad()
def test_padding_is_not_masked():
    encoder = initialized()
    ids = torch.tensor([[5, 6, 1, 0, 0, 0]])
    assert (encoder(ids)[:, :3] - encoder(ids[:, :3])).abs().max() > 1e-3


@torch.no_grad()
def test_float16_does_not_overflow():
    """In XXL, feed-forward projections exceed 65504 by far; embeddings must equal those of float32."""
    encoder = initialized().eval()
    for block in encoder.blocks:
        block.mlp.wo.weight.mul_(3e4)
    ids = torch.randint(99, (2, 20))
    streams = []
    handle = encoder.blocks[-1].register_forward_hook(lambda module, args, output: streams.append(output))
    exact = encoder(ids)
    handle.remove()
    assert streams[0].abs().max() > torch.finfo(torch.float16).max
    actual = encoder.half()(ids)
    assert actual.dtype == torch.float16
    assert (actual - exact).abs().max() < 0.01 * exact.abs().max()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@torch.no_grad()
def test_output_has_the_dtype_of_the_weights(dtype):
    assert initialized().to(dtype)(torch.randint(99, (1, 4))).dtype == dtype


@torch.no_grad()
def test_initial_weights_depend_on_the_generator_only():
    first, repeated, other = initialized(seed=1), initialized(seed=1), initialized(seed=2)
    for (name, a), b, c in zip(first.named_parameters(), repeated.parameters(), other.parameters()):
        assert torch.equal(a, b), name
        assert "norm" in name or not torch.equal(a, c), name


@torch.no_grad()
def test_every_weight_of_an_empty_model_is_initialized():
    with torch.device("meta"):
        encoder = T5Encoder(SMALL)
    encoder.to_empty(device="cpu")
    for parameter in encoder.parameters():
        parameter.fill_(float("nan"))
    text_init.init_weights(encoder, torch.Generator().manual_seed(0))
    output = encoder(torch.randint(99, (2, 10)))
    assert 0.5 < output.std() < 2  # because of the last norm


def test_keymap_inverts():
    state = initialized().state_dict()
    external = to_external(state, text_keys.TRANSFORMERS_KEYMAP)
    assert {"shared.weight", "encoder.block.2.layer.1.DenseReluDense.wi_1.weight"} <= external.keys()
    repeated = to_internal(external, text_keys.TRANSFORMERS_KEYMAP)
    assert repeated.keys() == state.keys()
    assert all(torch.equal(repeated[name], state[name]) for name in state)


def test_token_embedding_may_have_either_name_or_both():
    state = initialized().state_dict()
    first = to_external(state, text_keys.TRANSFORMERS_KEYMAP)
    second = {name.replace("shared.", "encoder.embed_tokens."): tensor for name, tensor in first.items()}
    for external in (first, second, first | second):
        assert (
            to_internal(text_keys.merge_shared_embedding(external), text_keys.TRANSFORMERS_KEYMAP).keys()
            == state.keys()
        )
    with pytest.raises(UserError, match="they differ"):
        text_keys.merge_shared_embedding(first | {"encoder.embed_tokens.weight": first["shared.weight"] + 1})
