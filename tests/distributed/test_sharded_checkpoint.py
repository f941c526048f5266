"""Sharded checkpoints: a run resumed on another number of ranks equals an uninterrupted one, to 1e-6."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor

from cogvideox.errors import UserError
from cogvideox.parallel.mesh import Ranks
from cogvideox.parallel.parallelize import parallelize
from cogvideox.training.checkpoint import Checkpoints, restore_run
from cogvideox.training.config import OptimSettings
from cogvideox.training.ema import EMA
from cogvideox.training.optim.optimizers import build_adamw
from cogvideox.transformer.model import Transformer
from tests import tiny
from tests.distributed.spawn import on_ranks

NUM_CLIPS = 4


class Counter:
    """State that is neither a tensor nor sharded."""

    seen = 0

    def state_dict(self) -> dict:
        return {"seen": self.seen, "text": "unchanged", "generator": torch.arange(3)}

    def load_state_dict(self, state: dict) -> None:
        assert state["generator"].tolist() == [0, 1, 2]
        self.seen = state["seen"]


def train(ranks: Ranks | None, out: Path, until: int) -> dict[str, dict[str, torch.Tensor]]:
    """Resume, train to step `until` and save; return the weights, the EMA and the optimizer state."""
    torch.manual_seed(0)
    model = Transformer(replace(tiny.transformer("5b"), num_attention_heads=4))
    parallelize(model, model.blocks, ranks)
    optimizer, ema, counter = (
        build_adamw([model], OptimSettings(lr=1e-3, eps=1e-3)),
        EMA({"model": model}, 0.9),
        Counter(),
    )
    parts = {"model": model, "optimizer": optimizer, "ema": ema, "counter": counter}
    checkpoints, start = restore_run(out, OptimSettings(), parts, resume=True, keep=2, ranks=ranks)
    assert counter.seen == start * NUM_CLIPS
    row, num_rows = (0, 1) if ranks is None else (ranks.rank, ranks.size)
    clips_per_rank = NUM_CLIPS // num_rows
    clips = slice(row * clips_per_rank, (row + 1) * clips_per_rank)
    for step in range(start, until):
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(NUM_CLIPS, 4, 3, 4, 6, generator=generator)
        text = torch.randn(NUM_CLIPS, tiny.TEXT_LENGTH, 32, generator=generator)
        times = torch.randint(1000, (NUM_CLIPS,), generator=generator)
        model(x[clips], text[clips], times[clips]).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        ema.update(step)
        counter.seen += NUM_CLIPS
        if step + 1 < until:
            checkpoints.save(step + 1, parts)
    checkpoints.save(until, parts)
    named = dict(model.named_parameters())
    state = {"weights": named, "averages": ema.average}
    for moment in ("exp_avg", "exp_avg_sq", "step"):
        state[moment] = {name: optimizer.state[weight][moment] for name, weight in named.items()}
    return {kind: {name: full_tensor(tensor) for name, tensor in group.items()} for kind, group in state.items()}


def full_tensor(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach()


def check(ranks: Ranks, out: Path, until: int, expected: Path | None) -> None:
    state = train(ranks, out, until)
    assert Checkpoints(out).latest() == until
    assert not list(out.glob("checkpoints/*.partial"))
    assert len(list(out.glob("checkpoints/step-*"))) == min(until, 2)
    if expected is not None:
        expected_state = torch.load(expected, weights_only=True)
        assert state.keys() == expected_state.keys()
        for kind, tensors in expected_state.items():
            assert state[kind].keys() == tensors.keys()
            max_value = min(1.0, max(tensor.abs().max().item() for tensor in tensors.values()))
            for name, tensor in tensors.items():
                assert (state[kind][name] - tensor).abs().max() <= 1e-6 * max_value, f"{kind} of {name}"


def check_not_finite(ranks: Ranks, out: Path) -> None:
    model = Transformer(tiny.transformer("5b"))
    parallelize(model, model.blocks, ranks)
    if ranks.rank == 1:  # only rank 1's shard contains NaN
        with torch.no_grad():
            model.text_in.weight.to_local().fill_(torch.nan)
    with pytest.raises(UserError, match=r"model.text_in.weight is not finite"):
        Checkpoints(out, ranks=ranks).save(1, {"model": model})
    assert Checkpoints(out).latest() is None
    if ranks.rank == 0:  # rank 0 creates the folder
        assert not list(out.glob("checkpoints/*"))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    """The state after six steps of one process."""
    out = tmp_path_factory.mktemp("uninterrupted")
    torch.save(train(None, out, 6), out / "expected.pt")
    return out / "expected.pt"


@pytest.mark.parametrize("worlds", [(2, 1, 2), (2, None, 2), (None, 2, 4)], ids=str)
def test_a_run_resumes_on_another_number_of_ranks(worlds, uninterrupted, tmp_path):
    """None is a single process without `torchrun`, whose checkpoint has a different format."""
    for i, world in enumerate(worlds):
        last = i == len(worlds) - 1
        if world is None:
            train(None, tmp_path, 2 * i + 2)
        else:
            on_ranks(world, check, tmp_path, 2 * i + 2, uninterrupted if last else None)


def test_shards_are_safetensors(tmp_path):
    on_ranks(2, check, tmp_path, 1, None)
    files = sorted((tmp_path / "checkpoints/step-00000001").iterdir())
    assert sorted(file.suffix for file in files) == [".json", ".safetensors", ".safetensors"]
    names = [set(load_file(file)) for file in files if file.suffix == ".safetensors"]
    assert "model.text_in.weight" in names[0] & names[1]


def test_nonfinite_weights_on_one_rank_are_not_saved(tmp_path):
    on_ranks(2, check_not_finite, tmp_path)


def test_a_damaged_shard_is_rejected(uninterrupted, tmp_path):
    on_ranks(2, check, tmp_path, 1, None)
    shard = next((tmp_path / "checkpoints/step-00000001").glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(UserError, match="cannot be read"):
        train(None, tmp_path, 2)


@pytest.mark.parametrize("index", [0, 1])
def test_a_missing_shard_is_rejected(index, tmp_path):
    on_ranks(2, check, tmp_path, 1, None)
    shard = sorted((tmp_path / "checkpoints/step-00000001").glob("*.safetensors"))[index]
    shard.unlink()
    with pytest.raises(UserError, match=f"cannot be read: {shard.name} is missing"):
        train(None, tmp_path, 2)
