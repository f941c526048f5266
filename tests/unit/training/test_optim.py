import math

import pytest
import torch
from torch import nn

from cogvideox.training.optim import adamw, learning_rate, param_groups, update
from cogvideox.training.settings import OptimSettings


def test_only_matrices_that_multiply_activations_decay():
    shared = nn.Linear(4, 4)
    net = nn.ModuleDict({"embed": nn.Embedding(5, 4), "a": shared, "b": shared, "norm": nn.LayerNorm(4)})
    frozen = nn.Linear(4, 4).requires_grad_(False)
    decayed, rest = param_groups([net, frozen], 0.1)
    assert decayed["weight_decay"] == 0.1 and rest["weight_decay"] == 0.0
    assert [id(p) for p in decayed["params"]] == [id(shared.weight)]
    assert {id(p) for p in rest["params"]} == {
        id(net["embed"].weight), id(shared.bias), id(net["norm"].weight), id(net["norm"].bias)
    }  # fmt: skip


def test_learning_rate_warms_up_and_falls_like_a_cosine():
    settings = OptimSettings(lr=2.0, warmup_steps=4, schedule="cosine", final_lr=0.1)
    rates = [learning_rate(step, 15, settings) for step in range(15)]
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0]
    assert rates[4] == 2.0 and math.isclose(rates[9], 2.0 * 0.55) and math.isclose(rates[14], 0.2)
    assert rates[4:] == sorted(rates[4:], reverse=True)


def test_constant_learning_rate_and_no_warm_up():
    settings = OptimSettings(lr=2.0, warmup_steps=0, schedule="constant")
    assert {learning_rate(step, 10, settings) for step in range(10)} == {2.0}


def test_update_clips_the_gradient_and_clears_it():
    net = nn.Linear(2, 1, bias=False)
    settings = OptimSettings(lr=1.0, warmup_steps=2, grad_clip=0.5)
    optimizer = adamw([net], settings)
    net.weight.grad = torch.tensor([[3.0, 4.0]])
    lr, norm = update(optimizer, 0, 10, settings)
    assert lr == 0.5 and norm.item() == pytest.approx(5.0) and net.weight.grad is None
    # The first moment of Adam is (1 - beta1) times the gradient it was given.
    assert optimizer.state[net.weight]["exp_avg"].norm().item() == pytest.approx(0.1 * 0.5, rel=1e-4)
