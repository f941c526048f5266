"""`torch.compile` takes another path through rotation and modulation, because it fuses what eager code cannot.

The comparison runs in a process of its own: the compiler cannot look into the shape checks that pytest adds here.
"""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cogvideox.transformer.config import PRESETS
from cogvideox.transformer.model import Transformer
from cogvideox.transformer.position import positions_for


def compare() -> None:
    config = replace(
        PRESETS["5b"](),
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=2,
        time_embed_dim=24,
        text_embed_dim=12,
        max_text_seq_length=5,
    )
    torch.manual_seed(0)
    model = Transformer(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    given = torch.randn(2, 16, 3, 4, 6), torch.randn(2, 5, 12), torch.tensor([7, 900])
    positions = positions_for(config, 3, 4, 6)
    # One graph without a break. The last backend, which writes the kernels, is the compiler's own affair.
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")

    results = []
    for run in (model, compiled):
        model.zero_grad()
        prediction = run(*given, positions=positions)
        prediction.square().sum().backward()
        results.append([prediction.detach()] + [parameter.grad.clone() for parameter in model.parameters()])
    for eager, ours in zip(*results):
        torch.testing.assert_close(ours, eager, rtol=1e-4, atol=1e-4 * eager.abs().max().item())


@pytest.mark.slow
def test_one_graph_with_the_same_result():
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, __file__], cwd=root, env={"PYTHONPATH": str(root)}, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


if __name__ == "__main__":
    compare()
