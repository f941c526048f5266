"""Training steps on packed rows as in `training.diffusion`: recomputation, memory and compilation."""

import time
from dataclasses import replace
from typing import Any

import torch
from common import synchronize
from gpu_suite.run import Run
from gpu_suite.shapes import config_of
from torch import Tensor
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import TorchDispatchMode

from cogvideox.parallel.parallelize import parallelize
from cogvideox.transformer.config import TransformerConfig
from cogvideox.transformer.init_weights import init_weights
from cogvideox.transformer.model import Transformer

# Latent sizes of an image and of clips, and rows as indices of these sizes.
SIZES = [(1, 60, 90), (3, 60, 90), (4, 40, 60), (2, 30, 44), (5, 30, 44)]
ROWS = [(1, 0), (2, 2, 3), (0, 3, 3, 4), (4, 2, 0, 3, 3), (1, 3)]
NUM_LAYERS = 6


class Packed:
    """A 2B transformer with a few blocks, and a training step on a row of clips."""

    def __init__(self, run: Run, checkpointing: Any, *, compile: bool = False) -> None:
        self.run, self.config = run, _config(run)
        torch.manual_seed(run.seed)
        self.model = Transformer(self.config)
        init_weights(self.model, torch.Generator().manual_seed(run.seed))
        for parameter in self.model.parameters():  # gates that start at zero would hide gradients
            parameter.data.add_(0.02 * torch.randn_like(parameter))
        self.model.to(run.device)
        parallelize(self.model, self.model.blocks, checkpointing=checkpointing, compile=compile)

    def step(self, row: tuple[int, ...], *, packed: bool = True) -> list[Tensor]:
        """Return the loss and all gradients."""
        run, config = self.run, self.config
        generator = torch.Generator(run.device).manual_seed(run.seed)
        random = lambda *shape: torch.randn(shape, generator=generator, device=run.device)  # noqa: E731
        sizes = [(1, 4, 6), (3, 4, 6), (2, 6, 4), (1, 2, 2), (2, 2, 6)] if run.tiny else SIZES
        clips = [random(config.in_channels, *sizes[i]) for i in row]
        text = random(len(row), config.max_text_seq_length, config.text_embed_dim)
        timestep = torch.linspace(3, 999, len(row), device=run.device).long()
        with torch.autocast(torch.device(run.device).type, torch.bfloat16):
            if packed:
                predictions = self.model.forward_packed(clips, text, timestep)
            else:
                inputs = zip(clips, text, timestep)
                predictions = [self.model(clip[None], prompt[None], t[None])[0] for clip, prompt, t in inputs]
            loss = torch.stack([v.float().square().mean() for v in predictions]).sum()
        loss.backward()
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        self.model.zero_grad(set_to_none=True)
        return [loss.detach(), *gradients]


def measure_checkpointing(run: Run) -> None:
    """Measure attention calls, memory and the error of gradients for each kind of activation checkpointing."""
    expected = Packed(run, "none").step(ROWS[1], packed=False)
    for checkpointing in ("none", "selective", "full"):

        def step(checkpointing: str = checkpointing) -> dict[str, Any]:
            packed = Packed(run, checkpointing)
            results = packed.step(ROWS[1])
            # Some gradients are zero up to rounding, such as that of the keys' bias.
            min_norm = 0.01 * max(gradient.norm() for gradient in expected[1:])
            distance = max(((a - b).norm() / b.norm().clamp(min=min_norm)).item() for a, b in zip(results, expected))
            peak = _peak(run, lambda: packed.step(ROWS[1]))
            with AttentionCounter() as attentions:
                packed.step(ROWS[1])
            calls = attentions.count / len(packed.model.blocks)
            return {"attention_per_block": calls, "distance": distance, "peak_bytes": peak}

        run.figure(checkpointing, step)


class AttentionCounter(TorchDispatchMode):
    """Counts attention calls, except those whose result was kept by activation checkpointing."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        name = str(func)
        self.count += ("varlen_attn" in name or "attention" in name) and "backward" not in name
        return func(*args, **(kwargs or {}))


def measure_compiled(run: Run) -> None:
    """Measure compiled and eager steps on rows of different clips: seconds, and the number of compiled graphs."""
    rows = ROWS[:3] if run.tiny else ROWS
    for compile in (True, False):

        def steps(compile: bool = compile) -> dict[str, Any]:
            packed, graphs = Packed(run, "selective", compile=compile), counters["stats"]["unique_graphs"]
            first, second = ([_seconds(run, packed, row) for row in rows] for _ in range(2))
            return {
                "graphs": counters["stats"]["unique_graphs"] - graphs,
                "first_seconds": first,
                "again_seconds": second,
                "rows": len(rows),
            }

        run.figure("compiled" if compile else "eager", steps)


def _config(run: Run) -> TransformerConfig:
    config, _ = config_of(run, "2b")
    return replace(config, num_layers=2 if run.tiny else NUM_LAYERS)


def _seconds(run: Run, packed: Packed, row: tuple[int, ...]) -> float:
    synchronize(run.device)
    start = time.perf_counter()
    packed.step(row)
    synchronize(run.device)
    return round(time.perf_counter() - start, 4)


def _peak(run: Run, action: Any) -> int | None:
    if not run.on_gpu:
        return None
    torch.cuda.reset_peak_memory_stats()
    action()
    return torch.cuda.max_memory_allocated()
