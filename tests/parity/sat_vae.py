"""A reference implementation of the VAE in the layout of SAT, the original code. For tests only.

Derived from `3d-vae.pt`, for a flat state dict and one chunk with the first frame. The decoder's levels are numbered
from the output.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from cogvideox.vae.config import VAEConfig

State = dict[str, Tensor]


def state(config: VAEConfig, generator: torch.Generator) -> State:
    """Return random weights with SAT's names."""
    widths, z, m = config.block_out_channels, config.latent_channels, config.layers_per_block
    weights: State = {}

    def conv(name: str, c_in: int, c_out: int, *kernel: int) -> None:
        fan_in = c_in * torch.Size(kernel).numel()
        weights[f"{name}.weight"] = torch.randn(c_out, c_in, *kernel, generator=generator) / fan_in**0.5
        weights[f"{name}.bias"] = 0.3 * torch.randn(c_out, generator=generator)

    def norm(name: str, width: int, with_latents: bool) -> None:
        inner = f"{name}.norm_layer" if with_latents else name
        weights[f"{inner}.weight"] = 1 + 0.3 * torch.randn(width, generator=generator)
        weights[f"{inner}.bias"] = 0.3 * torch.randn(width, generator=generator)
        for part in ("conv_y", "conv_b") if with_latents else ():
            conv(f"{name}.{part}.conv", z, width, 1, 1, 1)

    def block(name: str, c_in: int, c_out: int) -> None:
        for i, width in ((1, c_in), (2, c_out)):
            norm(f"{name}.norm{i}", width, name.startswith("decoder"))
            conv(f"{name}.conv{i}.conv", width, c_out, 3, 3, 3)
        if c_in != c_out:
            conv(f"{name}.nin_shortcut", c_in, c_out, 1, 1, 1)

    conv("encoder.conv_in.conv", config.in_channels, widths[0], 3, 3, 3)
    for i, width in enumerate(widths):
        for j in range(m):
            block(f"encoder.down.{i}.block.{j}", widths[max(i - 1, 0)] if j == 0 else width, width)
        if i < len(widths) - 1:
            conv(f"encoder.down.{i}.downsample.conv", width, width, 3, 3)
    conv("decoder.conv_in.conv", z, widths[-1], 3, 3, 3)
    for network in ("encoder", "decoder"):
        for i in (1, 2):
            block(f"{network}.mid.block_{i}", widths[-1], widths[-1])
    for i, width in enumerate(widths):
        c_in = widths[min(i + 1, len(widths) - 1)]
        for j in range(m + 1):
            block(f"decoder.up.{i}.block.{j}", c_in if j == 0 else width, width)
        if i > 0:
            conv(f"decoder.up.{i}.upsample.conv", width, width, 3, 3)
    norm("encoder.norm_out", widths[-1], with_latents=False)
    conv("encoder.conv_out.conv", widths[-1], 2 * z, 3, 3, 3)
    norm("decoder.norm_out", widths[0], with_latents=True)
    conv("decoder.conv_out.conv", widths[0], config.out_channels, 3, 3, 3)
    return weights


class VAE:
    """Encodes and decodes one chunk that starts with the first frame of the video."""

    def __init__(self, state: State, num_groups: int) -> None:
        self.state = state
        self.num_groups = num_groups
        self.num_levels = 1 + max(int(name.split(".")[2]) for name in state if name.startswith("encoder.down."))

    def encode(self, x: Tensor) -> Tensor:
        """Encode a video [b c t h w] to mean and log-variance, concatenated along the channels."""
        x = self.causal("encoder.conv_in.conv", x)
        for i in range(self.num_levels):
            x = self.blocks(f"encoder.down.{i}.block.", x, None)
            if i < self.num_levels - 1:
                x = self.downsample(f"encoder.down.{i}.downsample.conv", x, in_time=i < 2)
        x = self.blocks("encoder.mid.block_", x, None)
        return self.causal("encoder.conv_out.conv", F.silu(self.norm("encoder.norm_out", x, None)))

    def decode(self, z: Tensor) -> Tensor:
        """Decode latents to a video."""
        x = self.blocks("decoder.mid.block_", self.causal("decoder.conv_in.conv", z), z)
        for i in reversed(range(self.num_levels)):
            x = self.blocks(f"decoder.up.{i}.block.", x, z)
            if i > 0:
                x = self.upsample(f"decoder.up.{i}.upsample.conv", x, in_time=i > self.num_levels - 3)
        return self.causal("decoder.conv_out.conv", F.silu(self.norm("decoder.norm_out", x, z)))

    def blocks(self, prefix: str, x: Tensor, z: Tensor | None) -> Tensor:
        indices = sorted({int(n[len(prefix) :].split(".")[0]) for n in self.state if n.startswith(prefix)})
        for j in indices:
            name = f"{prefix}{j}"
            hidden = x
            for i in (1, 2):
                hidden = self.causal(f"{name}.conv{i}.conv", F.silu(self.norm(f"{name}.norm{i}", hidden, z)))
            if f"{name}.nin_shortcut.weight" in self.state:
                x = self.conv(f"{name}.nin_shortcut", x)
            x = x + hidden
        return x

    def norm(self, name: str, x: Tensor, z: Tensor | None) -> Tensor:
        if z is None:
            return F.group_norm(x, self.num_groups, self.state[f"{name}.weight"], self.state[f"{name}.bias"], 1e-6)
        if x.shape[2] > 1:  # the first latent frame encodes the first frame
            first = F.interpolate(z[:, :, :1], (1, *x.shape[3:]))
            later_frames = F.interpolate(z[:, :, 1:], (x.shape[2] - 1, *x.shape[3:]))
            z = torch.cat((first, later_frames), dim=2)
        else:
            z = F.interpolate(z, x.shape[2:])
        normed = self.norm(f"{name}.norm_layer", x, None)
        return normed * self.conv(f"{name}.conv_y.conv", z) + self.conv(f"{name}.conv_b.conv", z)

    def downsample(self, name: str, x: Tensor, in_time: bool) -> Tensor:
        if in_time and x.shape[2] > 1:
            x = torch.cat((x[:, :, :1], F.avg_pool3d(x[:, :, 1:], (2, 1, 1))), dim=2)
        return self.per_frame(name, F.pad(x, (0, 1, 0, 1)), stride=2, padding=0)

    def upsample(self, name: str, x: Tensor, in_time: bool) -> Tensor:
        parts = [F.interpolate(x[:, :, :1], scale_factor=(1, 2, 2))]
        if x.shape[2] > 1:
            parts.append(F.interpolate(x[:, :, 1:], scale_factor=(2 if in_time else 1, 2, 2)))
        return self.per_frame(name, torch.cat(parts, dim=2), stride=1, padding=1)

    def per_frame(self, name: str, x: Tensor, stride: int, padding: int) -> Tensor:
        weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        frames = [F.conv2d(frame, weight, bias, stride, padding) for frame in x.unbind(2)]
        return torch.stack(frames, dim=2)

    def causal(self, name: str, x: Tensor) -> Tensor:
        x = torch.cat((x[:, :, :1], x[:, :, :1], x), dim=2)
        return self.conv(name, x, padding=(0, 1, 1))

    def conv(self, name: str, x: Tensor, padding: tuple[int, int, int] = (0, 0, 0)) -> Tensor:
        return F.conv3d(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"], padding=padding)
