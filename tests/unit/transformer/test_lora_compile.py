"""A model with LoRAs compiles to one graph, and one that was compiled before is compiled again when they come and go.

It runs in a process of its own: the compiler cannot look into the shape checks that pytest adds here.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cogvideox.transformer import lora
from cogvideox.transformer.model import Transformer
from cogvideox.transformer.position import positions_for
from tests import tiny


def compare() -> None:
    torch.manual_seed(0)
    model = Transformer(tiny.TRANSFORMERS["5b"]).requires_grad_(False)
    given = torch.randn(1, 4, 2, 4, 6), torch.randn(1, 12, 32), torch.tensor([500])
    positions = positions_for(model.config, 2, 4, 6)
    one = lora.fresh(model, torch.Generator().manual_seed(0), rank=2, targets=[*lora.TARGETS, "norm1.linear"])
    for factors in one.layers.values():
        factors.up.normal_()

    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    before = compiled(*given, positions=positions)
    for trainable in (False, True):
        lora.add(model, one, trainable=trainable)
        eager = model(*given, positions=positions)
        assert (eager - before).abs().max() > 0.01
        torch.testing.assert_close(compiled(*given, positions=positions), eager, rtol=1e-4, atol=1e-4)
        lora.remove(model)
        torch.testing.assert_close(compiled(*given, positions=positions), before)


@pytest.mark.slow
def test_one_graph_each_time():
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, __file__], cwd=root, env={"PYTHONPATH": str(root)}, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


if __name__ == "__main__":
    compare()
