"""Blocks are compiled once for all of them, for all steps, and anew when a LoRA comes or goes.

It runs in a process of its own: the compiler cannot look into the shape checks that pytest adds here.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters

from cogvideox.transformer import lora
from cogvideox.transformer.compiled import compile_blocks
from cogvideox.transformer.model import Transformer
from cogvideox.transformer.position import positions_for
from tests import tiny


@torch.inference_mode()
def compare() -> None:
    torch.manual_seed(0)
    plain = Transformer(tiny.TRANSFORMERS["5b"]).requires_grad_(False)
    model = Transformer(plain.config).requires_grad_(False)
    model.load_state_dict(plain.state_dict())
    compile_blocks(model)
    latents, text, positions = torch.randn(1, 4, 2, 4, 6), torch.randn(1, 12, 32), positions_for(plain.config, 2, 4, 6)
    tables = plain.modulation(torch.tensor([900, 500, 100]))

    def same() -> None:
        for step in range(3):
            given = {"positions": positions, "modulation": tables[step]}
            found, expected = (each(latents, text, None, **given) for each in (model, plain))
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)

    same()
    assert counters["stats"]["unique_graphs"] == 1
    assert model.state_dict().keys() == plain.state_dict().keys()
    one = lora.fresh(plain, torch.Generator().manual_seed(0), rank=2)
    for factors in one.layers.values():
        factors.up.normal_()
    for each in (model, plain):
        lora.add(each, one)
    same()
    for each in (model, plain):
        lora.remove(each)
    same()
    assert counters["stats"]["unique_graphs"] <= 3


@pytest.mark.slow
def test_one_graph_for_all_blocks_and_steps():
    root = Path(__file__).parents[3]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, __file__], cwd=root, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


if __name__ == "__main__":
    compare()
