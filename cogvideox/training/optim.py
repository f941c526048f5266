"""AdamW as the paper sets it, and the learning rate as a pure function of the step.

Hyperparameters: CogVideoX, appendix A, table 6 (betas 0.9 / 0.95, eps 1e-8, weight decay 1e-4, clip 1.0, cosine decay).
The peak learning rate and the warm-up are not published; a recipe chooses them.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from cogvideox.training.settings import OptimSettings


def param_groups(modules: Iterable[nn.Module], weight_decay: float) -> list[dict]:
    """Splits the trainable parameters into decayed matrices and undecayed rest.

    Weight decay is for the weights that multiply activations: norms, biases and every other vector are left alone, and
    so are embedding tables, whose rows only some samples touch. A parameter that two modules share appears once.
    """
    seen: set[int] = set()
    decayed: list[nn.Parameter] = []
    undecayed: list[nn.Parameter] = []
    for root in modules:
        for module in root.modules():
            for parameter in module.parameters(recurse=False):
                if id(parameter) in seen or not parameter.requires_grad:
                    continue
                seen.add(id(parameter))
                multiplies = parameter.ndim >= 2 and not isinstance(module, nn.Embedding)
                (decayed if multiplies else undecayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": undecayed, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def adamw(modules: Iterable[nn.Module], settings: OptimSettings) -> torch.optim.AdamW:
    """AdamW over the trainable parameters of `modules`, in one fused kernel per step (CPU and GPU alike)."""
    return torch.optim.AdamW(
        param_groups(modules, settings.weight_decay),
        lr=settings.lr,
        betas=settings.betas,
        eps=settings.eps,
        fused=True,
    )


def learning_rate(step: int, num_steps: int, settings: OptimSettings) -> float:
    """The learning rate of the update with index `step` (0-based) in a run of `num_steps` updates.

    Rises linearly over `warmup_steps`, the first update already at `lr / warmup_steps`; then stays, or follows half a
    cosine down to `final_lr * lr` at the last update.
    """
    if step < settings.warmup_steps:
        return settings.lr * (step + 1) / settings.warmup_steps
    if settings.schedule == "constant":
        return settings.lr
    progress = (step - settings.warmup_steps) / max(1, num_steps - 1 - settings.warmup_steps)
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
    return settings.lr * (settings.final_lr + (1.0 - settings.final_lr) * cosine)


def update(optimizer: torch.optim.AdamW, step: int, num_steps: int, settings: OptimSettings) -> tuple[float, Tensor]:
    """One clipped optimizer step from the gradients at hand; clears them.

    Returns the learning rate used and the gradient norm before clipping (a scalar tensor).
    """
    lr = learning_rate(step, num_steps, settings)
    for group in optimizer.param_groups:
        group["lr"] = lr
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(parameters, settings.grad_clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return lr, norm
