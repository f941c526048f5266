"""AdamW as the paper sets it, Muon beside it, and the learning rate as a pure function of the step.

Hyperparameters: CogVideoX, appendix A, table 6 (betas 0.9 / 0.95, eps 1e-8, weight decay 1e-4, clip 1.0, cosine decay).
The peak learning rate and the warm-up are not published; a recipe chooses them. Muon is not the paper's: on two CPU
cores the shipped model needs fewer steps with it.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cogvideox.errors import UserError
from cogvideox.parallel.fsdp import clip_gradients
from cogvideox.training.config import OptimSettings
from cogvideox.training.optim.adamw_8bit import adamw_8bit, refuse_8bit
from cogvideox.training.optim.muon import Muon


class Optimizers:
    """Several optimizers that step, and are saved, as one. Each parameter belongs to one of them."""

    def __init__(self, *optimizers: torch.optim.Optimizer) -> None:
        self.optimizers = optimizers

    @property
    def param_groups(self) -> list[dict]:
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def step(self) -> None:
        for optimizer in self.optimizers:
            optimizer.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none)

    def state_dict(self) -> list[Any]:
        return [optimizer.state_dict() for optimizer in self.optimizers]

    def load_state_dict(self, states: list[Any]) -> None:
        """Raises ValueError for the state of other optimizers."""
        for optimizer, state in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict(state)


def optimizer(modules: Sequence[nn.Module], settings: OptimSettings) -> torch.optim.Optimizer | Optimizers:
    """The optimizer that the settings name, over the trainable parameters of `modules`.

    Raises:
        UserError: Muon for a network without transformer blocks; moments of 8 bits, and no torchao.
    """
    if settings.name == "adamw":
        return adamw(modules, settings)
    hidden = hidden_matrices(modules)
    if not hidden:
        raise UserError("optim.name=muon is for the matrices of transformer blocks, and here are none: use adamw")
    groups = [
        {"params": [weight for name, weight in hidden.items() if name.endswith("qkv.weight") is fused], "parts": parts}
        for fused, parts in ((True, 3), (False, 1))
    ]
    return Optimizers(
        Muon(groups, settings.lr, settings.weight_decay), adamw(modules, settings, besides=hidden.values())
    )


def hidden_matrices(modules: Iterable[nn.Module]) -> dict[str, nn.Parameter]:
    """The trainable matrices inside transformer blocks, by name: attention and MLP, not the modulation."""
    return {
        f"{index}.{name}": weight
        for index, module in enumerate(modules)
        for name, weight in module.named_parameters()
        if weight.requires_grad and weight.ndim == 2 and "blocks." in name and "modulation" not in name
    }


def param_groups(modules: Iterable[nn.Module], weight_decay: float, besides: Iterable[nn.Parameter] = ()) -> list[dict]:
    """Splits the trainable parameters, those `besides` left out, into decayed matrices and undecayed rest.

    Weight decay is for the weights that multiply activations: norms, biases and every other vector are left alone, and
    so are embedding tables, whose rows only some samples touch. A parameter that two modules share appears once.
    """
    seen = {id(parameter) for parameter in besides}
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


def adamw(
    modules: Iterable[nn.Module], settings: OptimSettings, besides: Iterable[nn.Parameter] = ()
) -> torch.optim.Optimizer:
    """AdamW over the trainable parameters of `modules`, in one fused kernel per step (CPU and GPU alike).

    Raises:
        UserError: moments of 8 bits, and no torchao.
    """
    groups = param_groups(modules, settings.weight_decay, besides)
    if settings.moments == "8bit":
        return adamw_8bit(groups, settings)
    optimizer = torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, eps=settings.eps, fused=True)
    optimizer.register_load_state_dict_pre_hook(refuse_8bit)
    return optimizer


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


def clip(optimizer: torch.optim.Optimizer | Optimizers, settings: OptimSettings) -> Tensor:
    """Shortens the whole gradient, on however many ranks, to `settings.grad_clip`; returns its norm before (a scalar
    tensor)."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return clip_gradients(parameters, settings.grad_clip)


def move(optimizer: torch.optim.Optimizer | Optimizers, step: int, num_steps: int, settings: OptimSettings) -> float:
    """One optimizer step from the gradients at hand, as they are; clears them, and returns the learning rate used."""
    lr = learning_rate(step, num_steps, settings)
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return lr
