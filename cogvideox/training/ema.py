"""An exponential moving average of the weights: what is validated, sampled and shipped."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from cogvideox.parallel.fsdp import local_shard


def decay_at(step: int, decay: float) -> float:
    """The decay of the update with index `step` (0-based).

    Grows as (1 + step) / (10 + step) up to `decay`, so that a short run is an average of itself and not of its
    initialisation.
    """
    return min(decay, (1 + step) / (10 + step))


class EMA:
    """Averages of all floating-point parameters of some named modules.

    Buffers are not averaged: they are constants of the model or functions of the data.
    """

    def __init__(self, modules: Mapping[str, nn.Module], decay: float) -> None:
        self.decay = decay
        self._live: dict[str, Tensor] = {
            f"{name}.{key}": parameter
            for name, module in modules.items()
            for key, parameter in module.named_parameters()
        }
        self.average: dict[str, Tensor] = {key: value.detach().clone() for key, value in self._live.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Moves the averages towards the weights after the optimizer step with index `step` (0-based)."""
        weight = 1.0 - decay_at(step, self.decay)
        torch._foreach_lerp_(list(self.average.values()), list(self._live.values()), weight)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Inside the block the modules hold the averaged weights; after it, their own again, to the bit.

        The storages trade places and nothing is copied, but of weights that are sharded over ranks: do not train inside
        the block.
        """
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for key, parameter in self._live.items():
            if isinstance(parameter, DTensor):  # whose storage FSDP gathers from, whatever the parameter points to
                ours, average = local_shard(parameter.detach()), local_shard(self.average[key])
                kept = ours.clone()
                ours.copy_(average)
                average.copy_(kept)
            else:
                parameter.data, self.average[key] = self.average[key], parameter.data

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.average)

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores the averages; raises ValueError when `state` names other parameters than the modules have."""
        if state.keys() != self.average.keys():
            raise ValueError(f"the averages are of other weights: {sorted(state.keys() ^ self.average.keys())[:8]}")
        for key, value in state.items():
            self.average[key].copy_(value)
