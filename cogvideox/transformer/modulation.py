"""Expert adaptive LayerNorm (paper section 2.2): text and video share every weight but not their modulation.

The timestep gives each of the two modalities a shift, a scale and a gate for each sub-layer. The merged stream is cut
into runs of one modality, so that modulating it is to multiply and add one vector per run.

Axes: b batch, n tokens, r runs, d width, s steps (or batch elements), e time embedding.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Runs = tuple[int, ...]
"""Lengths of the stretches of one modality that the stream consists of, in order: (text, video)."""

RunOfToken = Int[Tensor, " n"]
Stream = Float[Tensor, "b n d"]
Table = Float[Tensor, "#b r d"]
Tables = tuple[Float[Tensor, "s _ d"], ...]  # _ is 2 runs, text and video, or video alone
"""Vectors per timestep and run, in the order in which they are used."""


@dataclass(frozen=True)
class Modulation:
    """What a timestep does to the transformer, for one or many timesteps: a function of weights and time alone.

    blocks: for each block the shift, scale and gate of attention, then those of the feed-forward layer.
    final: shift and scale before the last projection, which is for video only.
    """

    blocks: tuple[Tables, ...]
    final: Tables

    def __len__(self) -> int:
        return len(self.final[0])

    def __getitem__(self, step: int) -> "Modulation":
        """The tables of one step, which apply to every element of a batch."""
        if not -len(self) <= step < len(self):
            raise IndexError(f"step {step} of modulation tables for {len(self)} steps")
        one = slice(step % len(self), step % len(self) + 1)
        blocks = tuple(tuple(table[one] for table in tables) for tables in self.blocks)
        return Modulation(blocks, tuple(table[one] for table in self.final))

    def flat(self) -> Tables:
        """All tables in one row."""
        return tuple(table for tables in (*self.blocks, self.final) for table in tables)

    @classmethod
    def from_flat(cls, tables: Tables) -> "Modulation":
        """The inverse of `flat`."""
        blocks, final = tables[:-2], tables[-2:]
        return cls(tuple(blocks[i : i + 6] for i in range(0, len(blocks), 6)), final)


class AdaptiveNorm(nn.LayerNorm):
    """LayerNorm(x) * (1 + scale) + shift, with one shift and scale per run.

    The norm's own weight and bias are folded into the tables first: the stream is then scaled once instead of twice,
    and their gradients need no sums over tokens of their own.
    """

    def fold(self, shift: Table, scale: Table) -> tuple[Table, Table]:
        """Rewrite (x̂ * weight + bias) * (1 + scale) + shift as x̂ * scale' + shift'; returns (shift', scale')."""
        return torch.addcmul(self.bias + shift, self.bias, scale), torch.addcmul(self.weight, self.weight, scale)

    def forward(self, x: Stream, shift: Table, scale: Table, runs: Runs | RunOfToken) -> Stream:
        """Normalise and modulate with *folded* tables. Under the compiler, `runs` may be the run of each token."""
        normalised = F.layer_norm(x, self.normalized_shape, eps=self.eps)
        return _multiply_add(shift, 1, normalised, scale, runs)


def add_gated(x: Stream, update: Stream, gate: Table, runs: Runs | RunOfToken) -> Stream:
    """x + gate * update, with one gate per run."""
    return _multiply_add(x, runs, update, gate, runs)


def _multiply_add(
    base: Tensor, base_runs: int | Runs | RunOfToken, x: Stream, scale: Table, runs: Runs | RunOfToken
) -> Stream:
    """base + x * scale, where `base` is a stream (`base_runs` = `runs`) or, like `scale`, a table (`base_runs` = 1)."""
    if isinstance(runs, Tensor):
        base = base if base_runs is runs else _Gather.apply(base, runs)
        return torch.addcmul(base, x, _Gather.apply(scale, runs))
    if torch.compiler.is_compiling():
        pieces = zip(base.split(base_runs, 1), x.split(runs, 1), scale.split(1, 1))
        return torch.cat([torch.addcmul(b, x, s) for b, x, s in pieces], dim=1)
    batch = len(x)
    return _MultiplyAdd.apply(base.expand(batch, -1, -1), base_runs, x, scale.expand(batch, -1, -1), runs)


class _MultiplyAdd(torch.autograd.Function):
    """The sum above without a copy: every run is written where it belongs, forward and backward.

    Plain PyTorch would compute the runs apart and concatenate them, a pass more over the stream in each direction. The
    compiler fuses that pass away, but does not know how to write into a part of a tensor.
    """

    @staticmethod
    def forward(ctx: Any, base: Tensor, base_runs: int | Runs, x: Tensor, scale: Tensor, runs: Runs) -> Tensor:
        ctx.save_for_backward(x, scale)
        ctx.base_runs, ctx.runs = base_runs, runs
        dtype = torch.promote_types(torch.promote_types(base.dtype, x.dtype), scale.dtype)
        out = torch.empty_like(x, dtype=dtype)
        for o, b, y, s in zip(out.split(runs, 1), base.split(base_runs, 1), x.split(runs, 1), scale.split(1, 1)):
            torch.addcmul(b, y, s, out=o)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, scale = ctx.saved_tensors
        needs_base, _, needs_x, needs_scale, _ = ctx.needs_input_grad
        pieces = grad.split(ctx.runs, 1)
        grad_base = grad_x = grad_scale = None
        if needs_base:
            grad_base = grad if ctx.base_runs == ctx.runs else torch.stack([g.sum(1) for g in pieces], 1)
        if needs_x:
            grad_x = torch.empty_like(x)
            for o, g, s in zip(grad_x.split(ctx.runs, 1), pieces, scale.split(1, 1)):
                torch.mul(g, s, out=o)
        if needs_scale:
            grad_scale = torch.stack([(g * y).sum(1) for g, y in zip(pieces, x.split(ctx.runs, 1))], 1)
        return grad_base, None, grad_x, grad_scale, None


class _Gather(torch.autograd.Function):
    """The vector of each token's run. The gradient is a matrix product, because summing by index on a GPU would let all
    tokens of a run wait for each other, and add them in any order."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, run_of_token: Tensor) -> Tensor:
        ctx.save_for_backward(run_of_token)
        ctx.num_runs = table.shape[1]
        return table[:, run_of_token]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (run_of_token,) = ctx.saved_tensors
        runs = torch.arange(ctx.num_runs, device=grad.device)
        return (run_of_token == runs[:, None]).to(grad.dtype) @ grad, None
