"""LoRA hyperparameters and their defaults: rank, alpha and target layers."""

from dataclasses import dataclass
from typing import Literal

from cogvideox.errors import UserError

DEFAULT_TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
"""Target layers by suffix of diffusers' layer names; the same as in the official trainer and in finetrainers."""


BaseWeights = Literal["exact", "int8", "nf4"]
"""Storage of the frozen weights: the dtype of the run, row-wise int8, or 4-bit NormalFloat (QLoRA)."""


@dataclass(frozen=True)
class LoRASettings:
    """Low-rank adaptation (Hu et al. 2021): train low-rank factors and freeze the model.

    Raises:
        UserError: the rank is below 1, or there are no targets.
    """

    rank: int = 64  # columns of the factors; more can learn more, and need more memory
    alpha: float | None = None  # None: equal to the rank
    targets: tuple[str, ...] = DEFAULT_TARGETS  # suffixes of diffusers' layer names
    trigger: str | None = None  # trigger word of the prompts; stored as metadata only
    base_weights: BaseWeights = "exact"  # storage of the frozen matrices of the blocks; int8 and nf4 save memory

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise UserError(f"lora.rank={self.rank} must be at least 1")
        if not self.targets:
            raise UserError(f"lora.targets is empty; the default is {', '.join(DEFAULT_TARGETS)}")
