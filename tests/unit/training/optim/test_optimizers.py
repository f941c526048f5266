import pytest
import torch
from torch import nn

from cogvideox.errors import UserError
from cogvideox.text.config import T5Config
from cogvideox.training.config import OptimSettings
from cogvideox.training.optim.muon import Muon, orthogonalize
from cogvideox.training.optim.optimizers import (
    Optimizers,
    build_adamw,
    build_optimizer,
    check_state,
    clip_grad_norm,
    optimizer_step,
    param_groups,
)
from cogvideox.training.text_encoder.decoder import build_model as build_text_model
from cogvideox.training.toybox.trainer import build_model
from tests import tiny, tiny_runs


def test_weight_decay_applies_to_matrices_that_multiply_activations():
    shared = nn.Linear(4, 4)
    net = nn.ModuleDict({"embed": nn.Embedding(5, 4), "a": shared, "b": shared, "norm": nn.LayerNorm(4)})
    frozen = nn.Linear(4, 4).requires_grad_(False)
    decayed, undecayed = param_groups([net, frozen], 0.1)
    assert decayed["weight_decay"] == 0.1 and undecayed["weight_decay"] == 0.0
    assert [id(p) for p in decayed["params"]] == [id(shared.weight)]
    assert {id(p) for p in undecayed["params"]} == {
        id(net["embed"].weight), id(shared.bias), id(net["norm"].weight), id(net["norm"].bias)
    }  # fmt: skip


def test_the_gradient_is_clipped_applied_and_cleared():
    net = nn.Linear(2, 1, bias=False)
    settings = OptimSettings(lr=1.0, warmup_steps=2, grad_clip=0.5)
    adam = build_adamw([net], settings)
    net.weight.grad = torch.tensor([[3.0, 4.0]])
    norm, lr = clip_grad_norm(adam, settings), optimizer_step(adam, 0, 10, settings)
    assert lr == 0.5 and norm.item() == pytest.approx(5.0) and net.weight.grad is None
    # Adam's first moment is (1 - beta1) times the clipped gradient.
    assert adam.state[net.weight]["exp_avg"].norm().item() == pytest.approx(0.1 * 0.5, rel=1e-4)


def test_orthogonalize_gives_nearly_orthogonal_matrices():
    generator = torch.Generator().manual_seed(0)
    for shape in ((3, 24, 24), (2, 16, 64), (64, 16)):
        values = torch.linalg.svdvals(orthogonalize(torch.randn(shape, generator=generator)))
        assert values.quantile(0.1) > 0.6 and values.max() < 1.3


def test_muon_updates_a_fused_qkv_weight_like_three_separate_weights():
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(2, 3, 8, 8, generator=generator)
    fused, separate = nn.Parameter(torch.zeros(24, 8)), [nn.Parameter(torch.zeros(8, 8)) for _ in range(3)]
    optimizers = Muon([{"params": [fused]}], lr=0.1, num_stacked={fused: 3}), Muon([{"params": separate}], lr=0.1)
    for gradient in gradients:
        fused.grad = gradient.flatten(0, 1)
        for weight, part in zip(separate, gradient, strict=True):
            weight.grad = part
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(fused, torch.cat(separate))
    # The update size matches AdamW's: an RMS of about 0.2 of the learning rate, in two steps.
    assert fused.square().mean().sqrt().item() == pytest.approx(0.04, rel=0.3)


def test_muon_trains_the_matrices_of_the_blocks_and_adamw_all_other_weights(tmp_path):
    model = build_model(tiny_runs.toybox_run(tmp_path))
    combined = build_optimizer([model], OptimSettings(name="muon"))
    muon, adam = (
        {id(weight) for group in optimizer.param_groups for weight in group["params"]}
        for optimizer in combined.optimizers
    )
    trainable = {name: id(weight) for name, weight in model.named_parameters() if weight.requires_grad}
    assert muon | adam == set(trainable.values()) and not muon & adam
    muon_names = {name.split(".", 3)[-1] for name, identity in trainable.items() if identity in muon}
    assert muon_names == {"attention.qkv.weight", "attention.out.weight", "mlp.hidden.weight", "mlp.out.weight"}
    with pytest.raises(UserError, match="use adamw"):
        build_optimizer([nn.Linear(2, 2)], OptimSettings(name="muon"))


def test_muon_orthogonalizes_keys_and_values_of_cross_attention_separately():
    config = T5Config(vocab_size=32, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2)
    model = build_text_model(config, 1, torch.Generator().manual_seed(0))
    optimizer, splits = build_optimizer([model], OptimSettings(name="muon", weight_decay=0.0)), {}
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    generator = torch.Generator().manual_seed(1)
    for weight in model.parameters():
        weight.grad = torch.randn(weight.shape, generator=generator)
    optimizer.step()
    for name, weight in model.named_parameters():
        if name.startswith("blocks.0.") and weight.ndim == 2:
            change = (before[name] - weight.detach()).unflatten(0, (-1, 16))
            # A matrix with orthogonal rows has singular values of about the same size.
            values = torch.linalg.svdvals(change)
            splits[name.removeprefix("blocks.0.")] = len(change), bool((values.min() / values.max()) > 0.4)
    assert splits["attention.qkv.weight"] == (3, True) and splits["cross.kv.weight"] == (2, True)
    assert splits["cross.q.weight"] == (1, True)
    # States of older versions have these two groups, with their number of parts.
    state = optimizer.state_dict()
    for group, num_parts in zip(state[0]["param_groups"], (3, 1), strict=True):
        group["parts"] = num_parts
    optimizer.load_state_dict(state)
    assert optimizer.optimizers[0].num_stacked[model.blocks[0].cross.kv.weight] == 2


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("damage", ["", "key", "shape", "number", "option", "type"])
def test_a_loaded_state_that_does_not_fit_is_found(name, damage):
    module = tiny.model().transformer.requires_grad_(True)
    optimizer = build_optimizer([module], OptimSettings(name=name))
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    part = optimizer.optimizers[0] if isinstance(optimizer, Optimizers) else optimizer
    state = part.state[part.param_groups[0]["params"][1]]
    moment = [*state][-1]
    if damage == "key":
        del state[moment]
    elif damage == "shape":
        state[moment] = torch.zeros(3)
    elif damage == "number":
        state[moment] = 1.0
    elif damage == "option":
        del part.param_groups[0]["weight_decay"]
    elif damage == "type":
        part.param_groups[0]["weight_decay"] = "x"
    if not damage:
        check_state(optimizer)
    else:
        with pytest.raises(ValueError, match=r"state of a parameter|option weight_decay"):
            check_state(optimizer)
