"""The VAE's forward pass with gradients: encoder and decoder, layer by layer (paper section 2.1, figure 3).

`inference.sliced` is the forward pass without gradients: the same networks and results, faster and with less memory.

Axes: b batch, c channels, t frames, h w height and width in pixels; latents have z channels and lt, lh, lw.
"""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import silu

from cogvideox.vae.causal_conv import CausalConv3d, ConvCache
from cogvideox.vae.config import VAEConfig
from cogvideox.vae.layers import Downsample, GroupNorm, LatentNorm, ResnetBlock, Upsample

Pixels = Float[Tensor, "b c t h w"]
Latents = Float[Tensor, "b z lt lh lw"]


class Level(nn.Module):
    """ResNet blocks of one width, followed by downsampling or upsampling except on the last level."""

    def __init__(self, resnets: list[ResnetBlock], resample: Downsample | Upsample | None) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(resnets)
        self.resample = resample

    def forward(
        self, x: Float[Tensor, "b c t h w"], latents: Latents | None, conv_cache: ConvCache
    ) -> Float[Tensor, "b _c _t _h _w"]:
        for resnet in self.resnets:
            x = resnet(x, latents, conv_cache)
        return x if self.resample is None else self.resample(x, conv_cache)


class Encoder(nn.Module):
    """Encoder: video to the mean and log-variance of its latents, concatenated along the channel axis."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths = config.block_out_channels
        groups, eps = config.norm_num_groups, config.norm_eps

        self.conv_in = CausalConv3d(config.in_channels, widths[0])
        self.levels = nn.ModuleList()
        for i, width in enumerate(widths):
            in_width = widths[max(i - 1, 0)]
            resnets = [
                ResnetBlock(in_width if j == 0 else width, width, groups, eps) for j in range(config.layers_per_block)
            ]
            is_last = i == len(widths) - 1
            self.levels.append(Level(resnets, None if is_last else Downsample(width, i < config.num_temporal_levels)))
        self.mid = Level([ResnetBlock(widths[-1], widths[-1], groups, eps) for _ in range(2)], None)
        self.norm_out = GroupNorm(groups, widths[-1], eps=1e-6)
        self.conv_out = CausalConv3d(widths[-1], 2 * config.latent_channels)

    def forward(self, video: Pixels, conv_cache: ConvCache) -> Float[Tensor, "b zz lt lh lw"]:
        """Encode a clip, or its next chunk, to mean and log-variance."""
        x = self.conv_in(video, conv_cache)
        for level in self.levels:
            x = level(x, None, conv_cache)
        x = self.mid(x, None, conv_cache)
        return self.conv_out(silu(self.norm_out(x, None, conv_cache)), conv_cache)


class Decoder(nn.Module):
    """Decoder: latents to video. Every norm is modulated by the latents."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths = config.block_out_channels[::-1]
        groups, eps, latent = config.norm_num_groups, config.norm_eps, config.latent_channels

        self.conv_in = CausalConv3d(latent, widths[0])
        self.mid = Level([ResnetBlock(widths[0], widths[0], groups, eps, latent) for _ in range(2)], None)
        self.levels = nn.ModuleList()
        for i, width in enumerate(widths):
            in_width = widths[max(i - 1, 0)]
            resnets = [
                ResnetBlock(in_width if j == 0 else width, width, groups, eps, latent)
                for j in range(config.layers_per_block + 1)
            ]
            is_last = i == len(widths) - 1
            self.levels.append(Level(resnets, None if is_last else Upsample(width, i < config.num_temporal_levels)))
        self.norm_out = LatentNorm(widths[-1], latent, groups)
        self.conv_out = CausalConv3d(widths[-1], config.out_channels)

    def forward(self, z: Latents, conv_cache: ConvCache) -> Pixels:
        """Decode the latents of a clip, or their next chunk."""
        x = self.conv_in(z, conv_cache)
        x = self.mid(x, z, conv_cache)
        for level in self.levels:
            x = level(x, z, conv_cache)
        return self.conv_out(silu(self.norm_out(x, z, conv_cache)), conv_cache)
