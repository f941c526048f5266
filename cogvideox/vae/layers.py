"""The layers of the 3D causal VAE (paper section 2.1, figure 3).

All layers are causal in time. Layers that depend on earlier frames have a `conv_cache` argument (`vae.causal_conv`).

Axes: b batch, c channels, t frames, h w height and width; latents have z channels and lt, lh, lw.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from cogvideox.vae.causal_conv import CausalConv3d, ConvCache

Video = Float[Tensor, "b c t h w"]
Output = Float[Tensor, "b _c _t _h _w"]  # after a layer that changes channels, time or space


class PointwiseConv3d(nn.Conv3d):
    """1x1x1 convolution, computed as a matrix product, which is several times faster on CPUs."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 1)

    def forward(self, x: Video) -> Output:
        channels_last = rearrange(x, "b c t h w -> b t h w c")
        return rearrange(F.linear(channels_last, self.weight.flatten(1), self.bias), "b t h w c -> b c t h w")


class GroupNorm(nn.GroupNorm):
    """GroupNorm over a chunk, including time. `latents` is unused, for the same signature as `LatentNorm`."""

    def forward(self, x: Video, latents: Tensor | None, conv_cache: ConvCache) -> Video:
        return conv_cache.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


class LatentNorm(nn.Module):
    """Decoder norm: GroupNorm with scale and shift from the latents (spatially conditioned norm, arXiv 2209.09002).

    Scale and shift are 1x1x1 convolutions of the latents. They are computed at the size of the latents and then
    upsampled, which is exact because a pointwise map commutes with nearest upsampling.
    """

    def __init__(self, channels: int, latent_channels: int, num_groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(num_groups, channels, eps=1e-6)
        self.modulation = PointwiseConv3d(latent_channels, 2 * channels)

    def forward(self, x: Video, latents: Float[Tensor, "b z lt lh lw"], conv_cache: ConvCache) -> Video:
        _, _, t, h, w = x.shape
        rows_per_latent = h // latents.shape[3]
        modulation = self.modulation(latents)
        if t != latents.shape[2]:
            modulation = modulation[:, :, source_frames(t, latents.shape[2], conv_cache.is_first, x.device)]
        modulation = modulation.repeat_interleave(w // latents.shape[4], dim=4)
        # Rows are upsampled by broadcasting, so that scale and shift are never stored at full size.
        scale, shift = modulation.unsqueeze(4).chunk(2, dim=1)
        normed = conv_cache.group_norm(x, self.norm.num_groups, self.norm.weight, self.norm.bias, self.norm.eps)
        normed = rearrange(normed, "b c t (h r) w -> b c t h r w", r=rows_per_latent)
        return rearrange(torch.addcmul(shift, normed, scale), "b c t h r w -> b c t (h r) w")


def source_frames(
    num_frames: int, num_latents: int, is_first: bool, device: torch.device | None = None
) -> Int[Tensor, " t"]:
    """Return the index of the latent frame that each of `num_frames` feature frames belongs to.

    The first frame of a video has its own latent frame; every other latent frame covers the same number of frames.
    """
    frame = torch.arange(num_frames, device=device)  # created on the device, because a copy would synchronize
    if not is_first or num_latents == 1:
        return frame * num_latents // num_frames
    return 1 + (frame - 1) * (num_latents - 1) // (num_frames - 1)  # 0 for frame 0, because -1 // n is -1


class ResnetBlock(nn.Module):
    """Residual block: twice norm, SiLU and convolution. In the decoder, norms are modulated by the latents."""

    def __init__(
        self, in_channels: int, out_channels: int, num_groups: int, eps: float, latent_channels: int | None = None
    ) -> None:
        super().__init__()

        def norm(channels: int) -> GroupNorm | LatentNorm:
            if latent_channels is None:
                return GroupNorm(num_groups, channels, eps=eps)
            return LatentNorm(channels, latent_channels, num_groups)

        self.norm1 = norm(in_channels)
        self.conv1 = CausalConv3d(in_channels, out_channels)
        self.norm2 = norm(out_channels)
        self.conv2 = CausalConv3d(out_channels, out_channels)
        self.conv_shortcut = PointwiseConv3d(in_channels, out_channels) if in_channels != out_channels else None

    def forward(self, x: Video, latents: Tensor | None, conv_cache: ConvCache) -> Output:
        hidden = self.conv1(F.silu(self.norm1(x, latents, conv_cache)), conv_cache)
        hidden = self.conv2(F.silu(self.norm2(hidden, latents, conv_cache)), conv_cache)
        return hidden + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class Downsample(nn.Module):
    """Halve height and width by a strided 2D convolution and, with `compress_time`, time by averaging pairs of frames.

    The first frame of a video is not averaged, so 2n+1 frames become n+1.
    """

    def __init__(self, channels: int, compress_time: bool) -> None:
        super().__init__()
        self.compress_time = compress_time
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Video, conv_cache: ConvCache) -> Output:
        if self.compress_time:
            x = average_frame_pairs(x, conv_cache.is_first)
        return _per_frame(self.conv, F.pad(x, (0, 1, 0, 1)))


def average_frame_pairs(x: Video, is_first: bool) -> Output:
    """Halve time by averaging pairs of frames, except the first frame of a video."""
    first, pairs = x.split([1, x.shape[2] - 1], dim=2) if is_first else (x[:, :, :0], x)
    return torch.cat([first, (pairs[:, :, 0::2] + pairs[:, :, 1::2]) / 2], dim=2)


class Upsample(nn.Module):
    """Nearest upsampling by 2 of height, width and, with `compress_time`, time, then a 2D convolution of each frame.

    The first frame of a video is not repeated, so n+1 frames become 2n+1.
    """

    def __init__(self, channels: int, compress_time: bool) -> None:
        super().__init__()
        self.compress_time = compress_time
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Video, conv_cache: ConvCache) -> Output:
        x = F.interpolate(x, scale_factor=(1, 2, 2))
        x = _per_frame(self.conv, x)
        if not self.compress_time:
            return x
        # Frames are repeated after the convolution, which saves computing it twice.
        num_frames = 2 * x.shape[2] - int(conv_cache.is_first)
        return x[:, :, source_frames(num_frames, x.shape[2], conv_cache.is_first, x.device)]


def _per_frame(conv: nn.Conv2d, x: Video) -> Output:
    frames = conv(rearrange(x, "b c t h w -> (b t) c h w"))
    return rearrange(frames, "(b t) c h w -> b c t h w", b=x.shape[0])
