"""FSDP2 training steps equal those of one process, with activation checkpointing, compilation, clipping and EMA."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from cogvideox.diffusion.timesteps import explicit_uniform
from cogvideox.parallel.mesh import Ranks
from cogvideox.parallel.parallelize import parallelize
from cogvideox.parallel.ulysses import apply_ulysses
from cogvideox.training.ema import EMA
from cogvideox.training.optim.grad_clip import clip_gradients
from cogvideox.transformer.model import Transformer
from cogvideox.transformer.position import positions_for
from tests import tiny
from tests.distributed.compare import close
from tests.distributed.spawn import on_ranks

NUM_CLIPS = 4
NUM_STEPS = 3


def make_model() -> Transformer:
    torch.manual_seed(0)
    model = Transformer(replace(tiny.transformer("5b"), num_attention_heads=4))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def full_tensor(x: torch.Tensor) -> torch.Tensor:
    return x.full_tensor() if hasattr(x, "full_tensor") else x


def train(model: nn.Module, clips: slice, scale: float) -> tuple[list[float], torch.Tensor, dict[str, torch.Tensor]]:
    """Train on the clips of this rank; return gradient norms, outputs and weights.

    Outputs are those of the EMA after each step (with precomputed modulation, as in sampling), then those of the
    weights, of the EMA and of the weights again.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, eps=1e-3, fused=True)
    ema, norms, outputs = EMA({"model": model}, 0.5), [], []
    for step in range(NUM_STEPS):
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(NUM_CLIPS, 4, 3, 4, 6, generator=generator)
        text = torch.randn(NUM_CLIPS, tiny.TEXT_LENGTH, 32, generator=generator)
        times = explicit_uniform(0, step, NUM_CLIPS)
        out = model(x[clips], text[clips], times[clips])
        loss = out.square().mean((1, 2, 3, 4)).sum() / NUM_CLIPS * scale
        loss.backward()
        norms.append(clip_gradients(model.parameters(), 0.05).item())
        optimizer.step()
        optimizer.zero_grad()
        ema.update(step)
        with ema.swapped(), torch.inference_mode():
            outputs.append(model(x[:1], text[:1], None, modulation=model.precompute_modulation(times)[0]))
    with torch.no_grad():
        positions = positions_for(model.config, 3, 4, 6, num_text=tiny.TEXT_LENGTH)
        outputs.append(model(x[:1], text[:1], times[:1], positions=positions))
        with ema.swapped():
            outputs.append(model(x[:1], text[:1], times[:1]))
        outputs.append(model(x[:1], text[:1], times[:1]))
    return norms, torch.cat(outputs), {name: full_tensor(weight.detach()) for name, weight in model.named_parameters()}


def check(ranks: Ranks, checkpointing: str, compiled: bool) -> None:
    expected_norms, expected_outputs, expected_weights = train(make_model(), slice(None), 1.0)
    model = make_model()
    parallelize(model, model.blocks, ranks, checkpointing=checkpointing, compile=compiled)
    apply_ulysses(model, ranks.sequence)
    rank, num_ranks = ranks.data.rank(), ranks.data.size()
    clips_per_rank = NUM_CLIPS // num_ranks
    norms, outputs, weights = train(model, slice(rank * clips_per_rank, (rank + 1) * clips_per_rank), num_ranks)
    close(torch.tensor(norms), torch.tensor(expected_norms), "norms")
    close(outputs, expected_outputs, "outputs")
    assert weights.keys() == expected_weights.keys()
    for name, weight in expected_weights.items():
        close(weights[name], weight, name)


def check_precision(ranks: Ranks) -> None:
    model = make_model()
    parallelize(model, model.blocks, ranks, checkpointing="selective", precision=torch.bfloat16)
    dtypes: list[torch.dtype] = []
    model.blocks[0].mlp.register_forward_pre_hook(lambda module, args: dtypes.append(args[0].dtype))
    positions: list[torch.dtype] = []
    model.blocks[0].attention.register_forward_pre_hook(lambda module, args: positions.append(args[1].dtype))
    norms, outputs, weights = train(model, slice(None), 1.0)
    assert set(dtypes) == {torch.bfloat16}
    assert set(positions) == {torch.float32}
    assert {tensor.dtype for tensor in (outputs, *weights.values())} == {torch.float32}
    expected_norms, expected_outputs, _ = train(make_model(), slice(None), 1.0)
    torch.testing.assert_close(torch.tensor(norms), torch.tensor(expected_norms), rtol=0.02, atol=0)
    assert (outputs - expected_outputs).norm() < 0.02 * expected_outputs.norm()


@pytest.mark.parametrize(("world", "sequence"), [(2, 1), (4, 1), (2, 2), (4, 2)])
@pytest.mark.parametrize("checkpointing", ["none", "full", "selective"])
def test_steps_equal_those_of_one_process(world, sequence, checkpointing):
    on_ranks(world, check, checkpointing, False, sequence=sequence)


@pytest.mark.parametrize("sequence", [1, 2])
def test_compiled_steps_equal_those_of_one_process(sequence):
    on_ranks(2, check, "selective", True, sequence=sequence)


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_weights():
    on_ranks(2, check_precision)


class AttentionCounter(TorchDispatchMode):
    """Counts the forward passes of attention."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += "flash_attention" in str(func) and "backward" not in str(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("checkpointing", "times"), [("none", 1), ("full", 2), ("selective", 1)])
def test_checkpointing_recomputes_attention_only_if_full(checkpointing, times):
    """Gradients are identical in all modes."""
    plain, model = make_model(), make_model()
    parallelize(model, model.blocks, checkpointing=checkpointing)
    x, text, t = torch.randn(1, 4, 3, 4, 6), torch.randn(1, tiny.TEXT_LENGTH, 32), torch.tensor([500])
    plain(x, text, t).square().mean().backward()
    with AttentionCounter() as attentions:
        model(x, text, t).square().mean().backward()
    assert attentions.count == times * len(model.blocks)
    for expected, actual in zip(plain.parameters(), model.parameters()):
        torch.testing.assert_close(actual.grad, expected.grad, rtol=0, atol=0)
