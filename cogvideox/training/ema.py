"""Exponential moving average (EMA) of the weights, used for validation, samples and export."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from cogvideox.parallel.parallelize import local_shard


def ema_decay_at(step: int, decay: float) -> float:
    """Return the decay of the update after optimizer step `step` (0-based).

    It warms up as (1 + step) / (10 + step) to `decay`, so that the initial weights do not dominate a short run's
    average.
    """
    return min(decay, (1 + step) / (10 + step))


class EMA:
    """EMA of the parameters of some named modules. Buffers are not averaged."""

    def __init__(self, modules: Mapping[str, nn.Module], decay: float) -> None:
        self.decay = decay
        self._weights: dict[str, Tensor] = {
            f"{name}.{key}": parameter
            for name, module in modules.items()
            for key, parameter in module.named_parameters()
        }
        self.average: dict[str, Tensor] = {key: value.detach().clone() for key, value in self._weights.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update the averages after optimizer step `step` (0-based)."""
        weight = 1.0 - ema_decay_at(step, self.decay)
        torch._foreach_lerp_(list(self.average.values()), list(self._weights.values()), weight)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Swap the averaged weights into the modules within the block, in which the modules must not be trained.

        The trained weights are restored bit-exactly. Storages are swapped without a copy, except for sharded weights.
        """
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for key, parameter in self._weights.items():
            if isinstance(parameter, DTensor):  # FSDP gathers from its storage, so `.data` cannot be replaced
                shard, average = local_shard(parameter.detach()), local_shard(self.average[key])
                trained = shard.clone()
                shard.copy_(average)
                average.copy_(trained)
            else:
                parameter.data, self.average[key] = self.average[key], parameter.data

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.average)

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the averages.

        Raises:
            ValueError: `state` and the modules have different parameters.
        """
        if state.keys() != self.average.keys():
            raise ValueError(
                f"the EMA and the model have different parameters: {sorted(state.keys() ^ self.average.keys())[:8]}"
            )
        for key, value in state.items():
            self.average[key].copy_(value)
