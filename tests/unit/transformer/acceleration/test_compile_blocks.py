"""`torch.compile` of linear layers and of the whole transformer, block by block, with LoRAs and with packed rows.

Compiled code has its own implementations of rotation and modulation. Each comparison runs in a separate process,
because the compiler does not support the shape checks of the tests.
"""

import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters

from cogvideox.linear import Linear
from cogvideox.parallel.parallelize import parallelize
from cogvideox.transformer.acceleration.compile_blocks import compile_blocks
from cogvideox.transformer.acceleration.int8 import Int8Linear
from cogvideox.transformer.lora import inject
from cogvideox.transformer.lora.config import DEFAULT_TARGETS
from cogvideox.transformer.model import Transformer
from cogvideox.transformer.position import positions_for
from cogvideox.transformer.presets import PRESETS
from tests import tiny
from tests.varlen import varlen_on_cpu

SHAPES = (1, 4, 2, 4, 6), (1, 12, 32)
"""Shapes of latents and text for the tiny model."""


def random_lora(model: Transformer, targets: list[str]) -> inject.LoRA:
    lora = inject.create_lora(model, torch.Generator().manual_seed(0), rank=2, targets=targets)
    for factors in lora.layers.values():
        factors.up.normal_()
    return lora


def linear_layers() -> None:
    """A linear layer is one graph on every device, in both dtypes, with int8 weights or without, and with gradients."""
    for device, dtype in product(("cpu", "meta"), (torch.float32, torch.bfloat16)):
        layer, x = Linear(64, 48, device=device, dtype=dtype), torch.ones(2, 3, 64, device=device, dtype=dtype)
        for module, gradients in ((layer, True), (layer, False), (Int8Linear(layer), False)):
            torch._dynamo.reset()
            with torch.set_grad_enabled(gradients):
                compiled = torch.compile(module, fullgraph=True, backend="eager")(x, gelu=True)
                if device == "cpu":
                    torch.testing.assert_close(compiled, module(x, gelu=True))


def whole_model() -> None:
    """The whole model is one graph without breaks, tested with a backend that generates no kernels."""
    config = replace(
        PRESETS["5b"](),
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=2,
        time_embed_dim=24,
        text_embed_dim=12,
        max_text_seq_length=5,
    )
    model = Transformer(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    inputs = torch.randn(2, 16, 3, 4, 6), torch.randn(2, 5, 12), torch.tensor([7, 900])
    positions = positions_for(config, 3, 4, 6)
    results = []
    for run in (model, torch.compile(model, fullgraph=True, backend="aot_eager")):
        model.zero_grad()
        prediction = run(*inputs, positions=positions)
        prediction.square().sum().backward()
        results.append([prediction.detach()] + [parameter.grad.clone() for parameter in model.parameters()])
    for eager, compiled in zip(*results):
        torch.testing.assert_close(compiled, eager, rtol=1e-4, atol=1e-4 * eager.abs().max().item())


def with_loras() -> None:
    """A compiled model is recompiled, to one graph, when LoRAs are added and removed."""
    model = Transformer(tiny.TRANSFORMERS["5b"]).requires_grad_(False)
    inputs = *(torch.randn(shape) for shape in SHAPES), torch.tensor([500])
    positions = positions_for(model.config, 2, 4, 6)
    lora = random_lora(model, [*DEFAULT_TARGETS, "norm1.linear"])
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    before = compiled(*inputs, positions=positions)
    for trainable in (False, True):
        inject.add_lora(model, lora, trainable=trainable)
        eager = model(*inputs, positions=positions)
        assert (eager - before).abs().max() > 0.01
        torch.testing.assert_close(compiled(*inputs, positions=positions), eager, rtol=1e-4, atol=1e-4)
        inject.remove_lora(model)
        torch.testing.assert_close(compiled(*inputs, positions=positions), before)


@torch.inference_mode()
def block_by_block() -> None:
    """All blocks and steps share one compilation; adding or removing a LoRA needs another one."""
    plain = Transformer(tiny.TRANSFORMERS["5b"]).requires_grad_(False)
    model = Transformer(plain.config).requires_grad_(False)
    model.load_state_dict(plain.state_dict())
    compile_blocks(model)
    latents, text = (torch.randn(shape) for shape in SHAPES)
    positions, tables = positions_for(plain.config, 2, 4, 6), plain.precompute_modulation(torch.tensor([900, 500, 100]))

    def check_equal() -> None:
        for step in range(3):
            inputs = {"positions": positions, "modulation": tables[step]}
            actual, expected = (network(latents, text, None, **inputs) for network in (model, plain))
            torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)

    check_equal()
    assert counters["stats"]["unique_graphs"] == 1
    assert model.state_dict().keys() == plain.state_dict().keys()
    lora = random_lora(plain, list(DEFAULT_TARGETS))
    for network in (model, plain):
        inject.add_lora(network, lora)
    check_equal()
    for network in (model, plain):
        inject.remove_lora(network)
    check_equal()
    assert counters["stats"]["unique_graphs"] <= 3


def packed_rows() -> None:
    """The first row is one graph, and rows of any other clips share another one; attention outputs are saved."""
    plain, model = (Transformer(tiny.TRANSFORMERS["5b"]) for _ in range(2))
    for parameter in plain.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model.load_state_dict(plain.state_dict())
    torch.compile = partial(torch.compile, backend="aot_eager")
    parallelize(model, model.blocks, checkpointing="selective", compile=True)
    sizes = [(1, 4, 6), (3, 4, 6), (2, 6, 4), (1, 2, 2), (2, 2, 6)]
    rows = [(0, 1, 2), (0, 1), (3, 4, 1, 2), (0, 3, 3, 4, 1), (2, 1, 0)]
    for row in rows:
        clips, text = [torch.randn(4, *sizes[i]) for i in row], torch.randn(len(row), 12, 32)
        results = []
        with varlen_on_cpu() as calls:
            for network in (model, plain):
                calls.clear()
                with torch.autocast("cpu", torch.bfloat16):
                    loss = sum(
                        v.square().mean() for v in network.forward_packed(clips, text, torch.tensor([500] * len(row)))
                    )
                results.append([loss.detach(), *torch.autograd.grad(loss, list(network.parameters()))])
                assert len(calls) == len(model.blocks)
        for actual, expected in zip(*results):
            assert (actual - expected).norm() <= 0.02 * expected.norm() + 1e-5
    assert counters["stats"]["unique_graphs"] == 2, counters


CASES = {
    function.__name__: function for function in (linear_layers, whole_model, with_loras, block_by_block, packed_rows)
}


@pytest.mark.parametrize(
    "case",
    ["linear_layers", *(pytest.param(case, marks=pytest.mark.slow) for case in CASES if case != "linear_layers")],
)
def test_compiled_equals_eager(case):
    root = Path(__file__).parents[4]
    command, environment = [sys.executable, __file__, case], {**os.environ, "PYTHONPATH": str(root)}
    process = subprocess.run(command, cwd=root, env=environment, capture_output=True)
    assert process.returncode == 0, process.stderr.decode()


if __name__ == "__main__":
    torch.manual_seed(0)
    CASES[sys.argv[1]]()
