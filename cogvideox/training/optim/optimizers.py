"""Optimizers, parameter groups and gradient clipping.

Hyperparameters: CogVideoX, appendix A, table 6 (AdamW, betas 0.9 / 0.95, eps 1e-8, weight decay 1e-4, gradient clipping
1.0, cosine decay). The peak learning rate and the warm-up are not published; each recipe sets them. Muon is not from
the paper; it trains the shipped model in fewer steps.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cogvideox.errors import UserError
from cogvideox.training.config import OptimSettings
from cogvideox.training.optim.adamw_8bit import adamw_8bit, reject_8bit_state
from cogvideox.training.optim.grad_clip import clip_gradients
from cogvideox.training.optim.lr_schedule import learning_rate
from cogvideox.training.optim.muon import Muon, orthogonalization_flops


class Optimizers:
    """Several optimizers with the interface of a single one. Each parameter belongs to exactly one optimizer."""

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
        """Load the state of each optimizer. Raises ValueError if their number differs."""
        for optimizer, state in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict(state)


def check_state(optimizer: Any) -> None:
    """Check that a loaded state fits the parameters, which `torch.optim` finds only in the next step, if at all.

    Raises:
        ValueError: options or the state of a parameter are missing, or have a different type or shape.
    """
    for part in optimizer.optimizers if isinstance(optimizer, Optimizers) else [optimizer]:
        for group in part.param_groups:
            for name, default in part.defaults.items():
                if name == "differentiable":  # loading adds it to the defaults, but not to the groups of Muon
                    continue
                kinds = (int, float, Tensor) if isinstance(default, int | float) else (tuple, list)
                if isinstance(default, int | float | tuple) and not isinstance(group.get(name), kinds):
                    raise ValueError(f"its option {name} is missing or has a different type")
            states = [(parameter, part.state[parameter]) for parameter in group["params"] if parameter in part.state]
            expected = {name: isinstance(value, Tensor) for name, value in states[0][1].items()} if states else {}
            for parameter, state in states:
                if {name: isinstance(value, Tensor) for name, value in state.items()} != expected:
                    raise ValueError("the state of a parameter is incomplete")
                shapes = {value.shape for value in state.values() if isinstance(value, Tensor) and value.ndim}
                if shapes - {parameter.shape}:
                    raise ValueError("the state of a parameter has a different shape than the parameter")


def build_optimizer(modules: Sequence[nn.Module], settings: OptimSettings) -> torch.optim.Optimizer | Optimizers:
    """Build the optimizer `settings.name` for the trainable parameters of `modules`.

    Raises:
        UserError: the network has no transformer blocks for Muon; torchao is not installed for 8-bit moments.
    """
    if settings.name == "adamw":
        return build_adamw(modules, settings)
    hidden = hidden_matrices(modules)
    if not hidden:
        raise UserError("optim.name=muon needs transformer blocks, which this network does not have: use adamw")
    num_stacked = {name: stacked_matrices(name) for name in hidden}
    groups = [  # checkpoints depend on these groups and the order of their weights
        {"params": [hidden[name] for name, count in num_stacked.items() if (count == 3) is fused]}
        for fused in (True, False)
    ]
    muon = Muon(groups, settings.lr, settings.weight_decay, {hidden[name]: n for name, n in num_stacked.items()})
    return Optimizers(muon, build_adamw(modules, settings, hidden.values()))


def hidden_matrices(modules: Iterable[nn.Module]) -> dict[str, nn.Parameter]:
    """Return the trainable attention and MLP matrices of transformer blocks by name, without modulation."""
    return {
        f"{index}.{name}": weight
        for index, module in enumerate(modules)
        for name, weight in module.named_parameters()
        if weight.requires_grad and weight.ndim == 2 and "blocks." in name and "modulation" not in name
    }


def stacked_matrices(name: str) -> int:
    """Return the number of matrices that are stacked in a weight: 3 for `qkv`, 2 for `kv`, otherwise 1."""
    return {"qkv": 3, "kv": 2}.get(name.rsplit(".", 2)[-2], 1)


def muon_flops(modules: Iterable[nn.Module]) -> float:
    """Return the FLOPs of Muon's matrix products for the weights of `modules` in a step."""
    total = 0.0
    for name, weight in hidden_matrices(modules).items():
        count = stacked_matrices(name)
        total += count * orthogonalization_flops(weight.shape[0] // count, weight.shape[1])
    return total


def param_groups(modules: Iterable[nn.Module], weight_decay: float, exclude: Iterable[nn.Parameter] = ()) -> list[dict]:
    """Split the trainable parameters, without those in `exclude`, into groups with and without weight decay.

    Weights that multiply activations are decayed. Norms, biases and other vectors are not, nor are embedding tables,
    of which each sample uses only some rows. A parameter shared by two modules appears once.
    """
    seen = {id(parameter) for parameter in exclude}
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


def build_adamw(
    modules: Iterable[nn.Module], settings: OptimSettings, exclude: Iterable[nn.Parameter] = ()
) -> torch.optim.Optimizer:
    """Build fused AdamW for the trainable parameters of `modules`, without those in `exclude`.

    Raises:
        UserError: torchao is not installed for 8-bit moments.
    """
    groups = param_groups(modules, settings.weight_decay, exclude)
    if settings.moments == "8bit":
        return adamw_8bit(groups, settings)
    optimizer = torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, eps=settings.eps, fused=True)
    optimizer.register_load_state_dict_pre_hook(reject_8bit_state)
    return optimizer


def clip_grad_norm(optimizer: torch.optim.Optimizer | Optimizers, settings: OptimSettings) -> Tensor:
    """Clip the norm of the whole gradient, over all ranks, to `settings.grad_clip`.

    Returns the norm before clipping, a scalar tensor.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return clip_gradients(parameters, settings.grad_clip)


def optimizer_step(
    optimizer: torch.optim.Optimizer | Optimizers, step: int, num_steps: int, settings: OptimSettings
) -> float:
    """Set the learning rate of step `step` (0-based), update the weights and clear the gradients.

    Returns the learning rate.
    """
    lr = learning_rate(step, num_steps, settings)
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return lr
