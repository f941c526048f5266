"""Comparisons of several processes with one, to 1e-5 of the maximum value. `pytest -s` prints all differences."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

TOLERANCE = 1e-5


def close(actual: Tensor, expected: Tensor, name: str = "") -> None:
    assert actual.shape == expected.shape, name
    error = ((actual - expected).abs().max() / expected.abs().max().clamp_min(1e-12)).item()
    print(f"{name or 'the result'} differs by {error:.1e}")
    assert error <= TOLERANCE, f"{name}: {error:.1e}"


def close_all(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Compare relative to the maximum of all tensors, because some gradients are zero up to rounding."""
    assert actual.keys() == expected.keys()
    max_value = max(tensor.abs().max() for tensor in expected.values())
    errors = {name: ((actual[name] - tensor).abs().max() / max_value).item() for name, tensor in expected.items()}
    worst = max(errors, key=lambda name: errors[name])
    print(f"of {len(errors)} gradients or weights, {worst} differs most, by {errors[worst]:.1e}")
    assert errors[worst] <= TOLERANCE, f"{worst}: {errors[worst]:.1e}"


def take_gradients(model: nn.Module) -> dict[str, Tensor]:
    """Return the gradients of a model and reset them."""
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad()
    return {name: torch.as_tensor(gradient) for name, gradient in gradients.items()}
