"""The transformer: initialization, patches, precomputed inputs, attention functions and errors."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from cogvideox.errors import UserError
from cogvideox.transformer.attention import dense_attention
from cogvideox.transformer.init_weights import init_weights
from cogvideox.transformer.model import Transformer, patchify, unpatchify
from cogvideox.transformer.position import positions_for, token_grid
from cogvideox.transformer.presets import PRESETS

SMALL = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "num_layers": 2,
    "time_embed_dim": 24,
    "text_embed_dim": 12,
    "max_text_seq_length": 5,
    "sample_frames": 9,
    "sample_height": 4,
    "sample_width": 6,
}


def small_config(preset: str):
    official = PRESETS[preset]()
    return replace(official, **SMALL, ofs_embed_dim=official.ofs_embed_dim and SMALL["time_embed_dim"])


def initialized(preset: str) -> Transformer:
    model = Transformer(small_config(preset))
    init_weights(model, torch.Generator().manual_seed(0))
    return model


def random_model(preset: str) -> Transformer:
    """Return a model without zero weights, as after training."""
    model = initialized(preset)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def inputs(model: Transformer, batch: int = 2):
    config = model.config
    size = (config.patch[0] * 2, 4, 6)
    latents = torch.randn(batch, config.in_channels, *size)
    text = torch.randn(batch, config.max_text_seq_length, config.text_embed_dim)
    ofs = {} if config.ofs_embed_dim is None else {"ofs": 2.0}
    return (latents, text, torch.randint(1000, (batch,))), ofs


@pytest.mark.parametrize("preset", PRESETS)
def test_initialization_sets_every_weight_and_predicts_zero(preset):
    with torch.device("meta"):
        model = Transformer(small_config(preset))
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, float("nan"))
    init_weights(model, torch.Generator().manual_seed(0))
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    repeated = initialized(preset).state_dict()
    assert all(torch.equal(repeated[name], parameter) for name, parameter in model.state_dict().items())

    positional, named = inputs(model)
    prediction = model(*positional, **named)
    assert prediction.shape == (2, model.config.out_channels, *positional[0].shape[2:])
    assert not prediction.any()
    (prediction - 1).square().mean().backward()
    assert model.final.linear.weight.grad.any()


@pytest.mark.parametrize("preset", PRESETS)
def test_every_weight_has_a_gradient(preset):
    model = random_model(preset)
    positional, named = inputs(model)
    model(*positional, **named).square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_a_few_steps_reduce_the_loss():
    """Five sign-gradient steps, like the first steps of Adam, halve the error for a constant target."""
    model = initialized("5b")
    positional, _ = inputs(model)
    losses = []
    for _ in range(6):
        loss = (model(*positional) - 1).square().mean()
        losses.append(loss.item())
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(model.parameters(), gradients):
                parameter -= 1e-2 * gradient.sign()
    assert losses[-1] < 0.5 * losses[0]


def test_patches_are_in_the_order_of_the_weights():
    config = small_config("1.5-5b")
    latents = torch.arange(16 * 4 * 4 * 6).view(1, 16, 4, 4, 6).float()
    patches = patchify(latents, config)
    assert patches.shape == (1, 2 * 2 * 3, 16 * 2 * 2 * 2)
    # The second token is the next one along the width. In a patch, width is fastest and channel slowest.
    assert torch.equal(patches[0, 1].view(16, 2, 2, 2), latents[0, :, :2, :2, 2:4])
    assert torch.equal(unpatchify(patches, token_grid(config, 4, 4, 6), config), latents)


@pytest.mark.parametrize("preset", ["2b", "5b-i2v", "1.5-5b-i2v"])
@torch.no_grad()
def test_precomputed_positions_and_modulation_do_not_change_predictions(preset):
    model = random_model(preset)
    (latents, text, timestep), named = inputs(model)
    expected = model(latents, text, timestep, **named)
    positions = positions_for(model.config, *latents.shape[2:])
    tables = model.precompute_modulation(timestep, **named)

    assert torch.equal(model(latents, text, timestep, positions=positions, **named), expected)
    assert torch.equal(model(latents, text, None, modulation=tables), expected)
    for i in range(2):
        prediction = model(latents, text, None, positions=positions, modulation=tables[i])
        torch.testing.assert_close(prediction[i], expected[i])


def test_a_sample_does_not_depend_on_its_batch():
    model = random_model("5b")
    (latents, text, timestep), _ = inputs(model, batch=3)
    batch = model(latents, text, timestep)
    for i in range(3):
        torch.testing.assert_close(model(latents[i : i + 1], text[i : i + 1], timestep[i : i + 1])[0], batch[i])


def test_attention_function_can_be_replaced():
    model = random_model("5b")
    positional, _ = inputs(model)
    spans = []

    def plain_attention(q, k, v, layout):
        spans.append(layout.spans)
        scores = torch.einsum("bnkc,bmkc->bknm", q, k) / q.shape[-1] ** 0.5
        return torch.einsum("bknm,bmkc->bnkc", scores.softmax(-1), v)

    torch.testing.assert_close(model(*positional, attend=plain_attention), model(*positional, attend=dense_attention))
    assert spans == [(5, 2 * 2 * 3)] * 2


def test_text_may_be_shorter_without_learned_positions():
    for preset in ("2b", "5b"):
        model = random_model(preset)
        (latents, text, timestep), _ = inputs(model)
        assert model(latents, text[:, :3], timestep).isfinite().all()
    (latents, text, timestep), _ = inputs(random_model("5b-i2v"))
    with pytest.raises(UserError, match="text of 3 tokens"):
        random_model("5b-i2v")(latents, text[:, :3], timestep)


def test_activation_checkpointing_of_blocks_keeps_predictions_and_gradients():
    model = random_model("5b")
    positional, _ = inputs(model)
    expected = model(*positional)
    expected.sum().backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()

    for block in model.blocks:
        forward = block.forward
        block.forward = partial(checkpoint, forward, use_reentrant=False)
    prediction = model(*positional)
    prediction.sum().backward()
    assert torch.equal(prediction, expected)
    assert all(torch.equal(parameter.grad, gradient) for parameter, gradient in zip(model.parameters(), gradients))


@pytest.mark.parametrize(
    ("preset", "changes", "message"),
    [
        ("1.5-5b-i2v", {"ofs": None}, "needs ofs"),
        ("5b", {"ofs": 2.0}, "leave it out"),
        ("5b", {"timestep": None}, "needs a timestep"),
        ("5b", {"latents": torch.zeros(2, 16, 2, 5, 6)}, "latent height 5"),
        ("1.5-5b", {"latents": torch.zeros(2, 16, 3, 4, 6)}, "latent frames 3"),
        ("5b-i2v", {"latents": torch.zeros(2, 32, 3, 6, 4)}, "are for 4x6"),
    ],
)
def test_invalid_inputs_are_rejected(preset, changes, message):
    model = random_model(preset)
    (latents, text, timestep), named = inputs(model)
    arguments = {"latents": latents, "text": text, "timestep": timestep} | named | changes
    with pytest.raises(UserError, match=message):
        model(**arguments)
