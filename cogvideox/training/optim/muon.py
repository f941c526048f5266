"""Muon (Jordan et al. 2024): momentum SGD whose update matrices are orthogonalized.

The gradient of a weight matrix has a few large singular values and many small ones; Muon updates along all of them at
the same rate. It applies to hidden matrices; embeddings, modulation, norms and the output projection use AdamW.
`torch.optim.Muon` iterates in bfloat16, which is tens of times slower than float32 on CPUs without bfloat16 units.
"""

import math
from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Coefficients of the Newton-Schulz polynomial a x + b x^3 + c x^5, which maps singular values to about 1."""
NUM_ITERATIONS = 5
"""Newton-Schulz iterations of an update."""
RMS = 0.2
"""Root mean square of an update before it is multiplied by the learning rate. It matches AdamW's, so that both share
one learning rate (Liu et al. 2025, "Muon is scalable for LLM training", section 2.2)."""


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum. Weights of equal shape are updated in one batch.

    Args:
        num_stacked: number of matrices stacked along dimension 0 of a weight, such as 3 for a fused QKV projection;
            each is orthogonalized separately. 1 for other weights. Not part of the state dict.
    """

    def __init__(
        self,
        groups: Iterable[dict],
        lr: float,
        weight_decay: float = 0.0,
        num_stacked: Mapping[nn.Parameter, int] | None = None,
    ) -> None:
        super().__init__(list(groups), {"lr": lr, "weight_decay": weight_decay})
        self.num_stacked = num_stacked or {}

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            by_shape: dict[tuple[torch.Size, int], list[nn.Parameter]] = {}
            for weight in group["params"]:
                if weight.grad is not None:
                    by_shape.setdefault((weight.shape, self.num_stacked.get(weight, 1)), []).append(weight)
            for (_, num_stacked), weights in by_shape.items():
                self._update(weights, group["lr"], group["weight_decay"], num_stacked)

    def _update(self, weights: list[nn.Parameter], lr: float, weight_decay: float, num_stacked: int) -> None:
        nesterov = []
        for weight in weights:
            state = self.state[weight]
            if not state:
                state["momentum"] = torch.zeros_like(weight)
            assert weight.grad is not None
            momentum = state["momentum"].lerp_(weight.grad, 1.0 - MOMENTUM)
            nesterov.append(weight.grad.lerp(momentum, MOMENTUM))
        update = torch.stack(nesterov).unflatten(1, (num_stacked, -1))
        update = orthogonalize(update) * (RMS * math.sqrt(max(update.shape[-2:])))
        for weight, change in zip(weights, update.flatten(1, 2), strict=True):
            weight.mul_(1.0 - lr * weight_decay).sub_(change, alpha=lr)


def orthogonalize(matrices: Float[Tensor, "*batch m n"], steps: int = NUM_ITERATIONS) -> Float[Tensor, "*batch m n"]:
    """Approximate the nearest (semi-)orthogonal matrices by Newton-Schulz iteration.

    The singular values of the result are between about 0.7 and 1.2.
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


def orthogonalization_flops(rows: int, columns: int, steps: int = NUM_ITERATIONS) -> float:
    """Return the FLOPs of the matrix products with which a matrix is orthogonalized."""
    short, long = sorted((rows, columns))
    return 2.0 * steps * (2 * short**2 * long + short**3)
