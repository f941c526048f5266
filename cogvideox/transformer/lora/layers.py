"""A linear layer with low-rank changes beside it or in it (Hu et al. 2021, section 4.1).

W becomes W + strength * alpha / rank * up @ down. A layer of ours may join several of theirs (queries, keys and values,
or two modulations with their rows interleaved), so that a change may be one of some of its rows.

Axes: r rank; d_in, d_out the layer's inputs and outputs; n tokens or whatever else the layer is applied to.
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
    """The change of one layer of theirs."""

    down: Float[Tensor, "r *d_in"]  # [r d], or [r c kh kw] where theirs is a convolution over patches
    up: Float[Tensor, "d_out r"]
    alpha: float

    @property
    def rank(self) -> int:
        return self.up.shape[1]

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


class LowRank(nn.Module):
    """One LoRA's share of one layer of ours: a pair of factors for each layer of theirs that it changes in it."""

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
                else:  # not of the model's state: a folder that is written of it holds the model alone
                    self.register_buffer(key, tensor, persistent=False)
            self.register_buffer(f"rows{i}", None if rows is None else rows.to(device), persistent=False)

    def pairs(self) -> list[tuple[Float[Tensor, "r d_in"], Float[Tensor, "d_part r"]]]:
        """(down, up) of each layer of theirs."""
        return [(getattr(self, f"down{i}"), getattr(self, f"up{i}")) for i in range(len(self.layers))]

    def matrices(self) -> tuple[Float[Tensor, "r d_in"], Float[Tensor, "d_out r"]]:
        """One pair for the whole layer: ranks one after another, each up in its own rows, with all scales in it.

        Beside the tokens these are small, and one pair of products over them costs less than one for every part, and
        then bringing their results together.
        """
        ups = []
        for i, (_, up) in enumerate(self.pairs()):
            rows = getattr(self, f"rows{i}")
            placed = up if rows is None else up.new_zeros(self.d_out, up.shape[1]).index_copy(0, rows, up)
            ups.append(placed.float() * (self.strength * self.alphas[i] / up.shape[1]))
        return torch.cat([down for down, _ in self.pairs()]), torch.cat(ups, dim=1)


class LowRankLinear(Linear):
    """A linear layer and the LoRAs on it. Its weight and bias are those of the layer that it stands for."""

    can_merge = True
    """Whether a LoRA can be added to the weight."""

    def __init__(self, layer: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias = layer.weight, layer.bias
        self.loras = nn.ModuleList()
        self.original: Tensor | None = None
        self.train(layer.training)

    def forward(self, x: Float[Tensor, "*n d_in"], *, gelu: bool = False) -> Float[Tensor, "*n d_out"]:
        apart = [lora.matrices() for lora in self.each() if not lora.merged]
        if not apart:
            return self.alone(x, gelu=gelu)
        down = torch.cat([down for down, _ in apart]).to(x.dtype)
        up = torch.cat([up for _, up in apart], dim=1).to(x.dtype)
        out = self.alone(x) + linear(linear(x, down), up)
        return F.gelu(out, approximate="tanh") if gelu else out

    def alone(self, x: Float[Tensor, "*n d_in"], *, gelu: bool = False) -> Float[Tensor, "*n d_out"]:
        """The weight's own product, without what lies beside it."""
        return super().forward(x, gelu=gelu)

    def each(self) -> list[LowRank]:
        return [lora for lora in self.loras if isinstance(lora, LowRank)]

    @torch.no_grad()
    def rebuild(self) -> None:
        """The weight anew from the original and whatever is merged: summed in float32, rounded once."""
        weight = self.weight.data if self.original is None else self.original.to(self.weight)
        merged = [lora.matrices() for lora in self.each() if lora.merged]
        self.original = None
        if merged:
            # On a GPU the copy would take room that a model may not leave; there and back, no bit is lost.
            self.original = weight.cpu()
            total = weight.float()
            for down, up in merged:
                total = torch.addmm(total, up.float(), down.float())
            weight = total.to(weight.dtype)
        self.weight.data = weight

    def settle(self) -> None:
        """What is merged belongs to the weight from now on."""
        self.original = None
        self.loras = nn.ModuleList(lora for lora in self.each() if not lora.merged)

    def plain(self) -> Linear:
        """The layer without the LoRAs."""
        layer = Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        layer.weight, layer.bias = self.weight, self.bias
        return layer.train(self.training)
