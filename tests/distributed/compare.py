"""How near several processes come to one: to 1e-5 of the largest number. `pytest -s` shows how near."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

TOLERANCE = 1e-5


def close(ours: Tensor, theirs: Tensor, name: str = "") -> None:
    assert ours.shape == theirs.shape, name
    error = ((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1e-12)).item()
    print(f"{name or 'what is computed'} is off by {error:.1e}")
    assert error <= TOLERANCE, f"{name}: {error:.1e}"


def close_all(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    """Of the largest gradient of a network: before a norm, those of a bias are what rounding leaves of zero."""
    assert ours.keys() == theirs.keys()
    largest = max(tensor.abs().max() for tensor in theirs.values())
    errors = {name: ((ours[name] - tensor).abs().max() / largest).item() for name, tensor in theirs.items()}
    worst = max(errors, key=lambda name: errors[name])
    print(f"of {len(errors)} gradients or weights {worst} is off the most, by {errors[worst]:.1e}")
    assert errors[worst] <= TOLERANCE, f"{worst}: {errors[worst]:.1e}"


def take_gradients(model: nn.Module) -> dict[str, Tensor]:
    """The gradients of a model, which then has none."""
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad()
    return {name: torch.as_tensor(gradient) for name, gradient in found.items()}
