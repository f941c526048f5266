"""A linear layer with LoRAs, either merged into its weight or computed separately (Hu et al. 2021, section 4.1).

W becomes W + strength * alpha / rank * up @ down. A layer of this package may combine several layers of diffusers
(queries, keys and values, or two modulations with interleaved rows), so a LoRA may apply to only some of its rows.

Axes: r rank; d_in, d_out inputs and outputs of the layer; n tokens or any other leading dimensions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cogvideox.linear import Linear, linear


@dataclass(frozen=True)
class Factors:
    """The low-rank factors of one layer in diffusers."""

    down: Float[Tensor, "r *d_in"]  # [r d], or [r c kh kw] for the patch convolution
    up: Float[Tensor, "d_out r"]
    alpha: float

    @property
    def rank(self) -> int:
        """Rank of the factors."""
        return self.up.shape[1]

    @property
    def scale(self) -> float:
        """alpha / rank, the factor of up @ down."""
        return self.alpha / self.rank


class LoRAModule(nn.Module):
    """One LoRA in one linear layer: a pair of factors for each layer of diffusers that the linear layer combines."""

    def __init__(
        self,
        name: str,
        parts: Sequence[tuple[str, Factors, Tensor | None]],
        like: nn.Linear,
        strength: float,
        *,
        trainable: bool,
        merged: bool,
    ) -> None:
        super().__init__()
        self.name, self.strength, self.merged = name, float(strength), merged
        self.layers = [layer for layer, _, _ in parts]
        self.alphas = [factors.alpha for _, factors, _ in parts]
        self.d_out = like.out_features
        device = like.weight.device
        for i, (_, factors, rows) in enumerate(parts):
            for key, tensor in ((f"down{i}", factors.down.flatten(1)), (f"up{i}", factors.up)):
                tensor = tensor.to(device)
                if trainable:
                    self.register_parameter(key, nn.Parameter(tensor.clone()))
                else:  # not in the state dict, so that saved models contain no LoRA
                    self.register_buffer(key, tensor, persistent=False)
            self.register_buffer(f"rows{i}", None if rows is None else rows.to(device), persistent=False)

    def factor_pairs(self) -> list[tuple[Float[Tensor, "r d_in"], Float[Tensor, "d_part r"]]]:
        """Return (down, up) for each layer of diffusers."""
        return [(getattr(self, f"down{i}"), getattr(self, f"up{i}")) for i in range(len(self.layers))]

    def combined_factors(self) -> tuple[Float[Tensor, "r d_in"], Float[Tensor, "d_out r"]]:
        """Return one scaled pair of factors for the whole layer: ranks are concatenated, each `up` is in its own rows.

        The factors are small compared with the tokens, so one pair of products is faster than one per layer of
        diffusers.
        """
        ups = []
        for i, (_, up) in enumerate(self.factor_pairs()):
            rows = getattr(self, f"rows{i}")
            full_up = up if rows is None else up.new_zeros(self.d_out, up.shape[1]).index_copy(0, rows, up)
            ups.append(full_up.float() * (self.strength * self.alphas[i] / up.shape[1]))
        return torch.cat([down for down, _ in self.factor_pairs()]), torch.cat(ups, dim=1)


class LoRALinear(Linear):
    """A linear layer with LoRAs. It shares weight and bias with the layer that it replaces."""

    can_merge = True
    """Whether LoRAs can be merged into the weight."""

    def __init__(self, layer: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias = layer.weight, layer.bias
        self.loras = nn.ModuleList()
        self.original: Tensor | None = None
        self.train(layer.training)

    def forward(self, x: Float[Tensor, "*n d_in"], *, gelu: bool = False) -> Float[Tensor, "*n d_out"]:
        unmerged = [lora.combined_factors() for lora in self.lora_modules() if not lora.merged]
        if not unmerged:
            return self.base_forward(x, gelu=gelu)
        down = torch.cat([down for down, _ in unmerged]).to(x.dtype)
        up = torch.cat([up for _, up in unmerged], dim=1).to(x.dtype)
        out = self.base_forward(x) + linear(linear(x, down), up)
        return F.gelu(out, approximate="tanh") if gelu else out

    def base_forward(self, x: Float[Tensor, "*n d_in"], *, gelu: bool = False) -> Float[Tensor, "*n d_out"]:
        """Apply the linear layer without unmerged LoRAs."""
        return super().forward(x, gelu=gelu)

    def lora_modules(self) -> list[LoRAModule]:
        """Return the LoRAs of this layer, in the order in which they were added."""
        return [lora for lora in self.loras if isinstance(lora, LoRAModule)]

    def without_loras(self) -> Linear:
        """Return the linear layer without LoRAs."""
        layer = Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        layer.weight, layer.bias = self.weight, self.bias
        return layer.train(self.training)
