"""The 3D causal VAE (paper section 2.1): 4x compression of time, 8x8 of space, 16 latent channels.

Axes: b batch, c channels, t frames, h w height and width in pixels; latents have z channels and lt, lh, lw.

The norms pool over time inside a chunk, so how a video is cut into chunks is part of the model: `encode` and `decode`
cut as the official weights expect it (`geometry.encode_chunks`, `geometry.decode_chunks`). A video of 4k+1 frames has
k+1 latent frames.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cogvideox import geometry
from cogvideox.vae.config import VAEConfig
from cogvideox.vae.layers import CausalConv3d, Downsample, GroupNorm, LatentNorm, ResnetBlock, Upsample
from cogvideox.vae.posterior import Posterior
from cogvideox.vae.stream import FirstFrame, Stream
from cogvideox.vae.tiling import Tiling

Latents = Float[Tensor, "b z lt lh lw"]
Pixels = Float[Tensor, "b c t h w"]


class Level(nn.Module):
    """ResNet blocks of one width, then a change of resolution (none on the last level)."""

    def __init__(self, resnets: list[ResnetBlock], resample: Downsample | Upsample | None) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(resnets)
        self.resample = resample

    def forward(self, x: Tensor, latents: Tensor | None, past: FirstFrame) -> Tensor:
        for resnet in self.resnets:
            x = resnet(x, latents, past)
        return x if self.resample is None else self.resample(x, past)


class Encoder(nn.Module):
    """Video to the mean and log-variance of its latents, stacked on the channel axis."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths = config.block_out_channels
        groups, eps = config.norm_num_groups, config.norm_eps

        self.conv_in = CausalConv3d(config.in_channels, widths[0])
        self.levels = nn.ModuleList()
        for i, width in enumerate(widths):
            before = widths[max(i - 1, 0)]
            resnets = [
                ResnetBlock(before if j == 0 else width, width, groups, eps) for j in range(config.layers_per_block)
            ]
            last = i == len(widths) - 1
            self.levels.append(Level(resnets, None if last else Downsample(width, i < config.num_temporal_levels)))
        self.mid = Level([ResnetBlock(widths[-1], widths[-1], groups, eps) for _ in range(2)], None)
        self.norm_out = GroupNorm(groups, widths[-1], eps=1e-6)
        self.conv_out = CausalConv3d(widths[-1], 2 * config.latent_channels)

    def forward(self, x: Pixels, past: FirstFrame) -> Latents:
        x = self.conv_in(x, past)
        for level in self.levels:
            x = level(x, None, past)
        x = self.mid(x, None, past)
        return self.conv_out(F.silu(self.norm_out(x, None, past)), past)


class Decoder(nn.Module):
    """Latents to video; every norm sees the latents."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths = config.block_out_channels[::-1]
        groups, eps, latent = config.norm_num_groups, config.norm_eps, config.latent_channels

        self.conv_in = CausalConv3d(latent, widths[0])
        self.mid = Level([ResnetBlock(widths[0], widths[0], groups, eps, latent) for _ in range(2)], None)
        self.levels = nn.ModuleList()
        for i, width in enumerate(widths):
            before = widths[max(i - 1, 0)]
            resnets = [
                ResnetBlock(before if j == 0 else width, width, groups, eps, latent)
                for j in range(config.layers_per_block + 1)
            ]
            last = i == len(widths) - 1
            self.levels.append(Level(resnets, None if last else Upsample(width, i < config.num_temporal_levels)))
        self.norm_out = LatentNorm(widths[-1], latent, groups)
        self.conv_out = CausalConv3d(widths[-1], config.out_channels)

    def forward(self, z: Latents, past: FirstFrame) -> Pixels:
        x = self.conv_in(z, past)
        x = self.mid(x, z, past)
        for level in self.levels:
            x = level(x, z, past)
        return self.conv_out(F.silu(self.norm_out(x, z, past)), past)


class CausalVAE(nn.Module):
    """Encoder, posterior and decoder, with the official chunking in time and optional tiling in space.

    Latents here are unscaled: the transformer works on `latents * config.scaling_factor`.
    """

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def encode(self, video: Pixels, *, tiling: Tiling | None = None) -> Posterior:
        """The posterior over the latents of a video with 4k+1 frames in [-1, 1].

        Raises:
            UserError: a frame count that is not 4k+1, or a height or width that is not a multiple of 8.
        """
        geometry.check_frames(video.shape[2])
        geometry.check_size(video.shape[3], video.shape[4], self.config.spatial_compression_ratio)
        ratio = self.config.spatial_compression_ratio
        moments = _run(self.encoder, video, geometry.encode_chunks(video.shape[2]), tiling, ratio, pixels_in=True)
        return Posterior.from_moments(torch.cat(list(moments), dim=2))

    def decode_stream(self, z: Latents, *, tiling: Tiling | None = None) -> Iterator[Pixels]:
        """Decode latents [b z lt lh lw] chunk by chunk, yielding frames [b c t h w] as soon as they are ready."""
        ratio = self.config.spatial_compression_ratio
        yield from _run(self.decoder, z, geometry.decode_chunks(z.shape[2]), tiling, ratio, pixels_in=False)

    def decode(self, z: Latents, *, tiling: Tiling | None = None) -> Pixels:
        """Decode latents [b z lt lh lw] to a video [b c 4*(lt-1)+1 8*lh 8*lw], about in [-1, 1]."""
        return torch.cat(list(self.decode_stream(z, tiling=tiling)), dim=2)


def _run(
    network: Callable[[Tensor, FirstFrame], Tensor],
    x: Tensor,
    sizes: list[int],
    tiling: Tiling | None,
    ratio: int,
    *,
    pixels_in: bool,
) -> Iterator[Tensor]:
    """Send x through the network in chunks of time; with tiling each chunk goes tile by tile, every tile with a past
    of its own."""
    scale_in, scale_out = (ratio, 1) if pixels_in else (1, ratio)
    plan = None if tiling is None else tiling.plan(ratio)
    if plan is None or plan.covers(x, scale_in):
        past = Stream() if len(sizes) > 1 else FirstFrame()
        for chunk in x.split(sizes, dim=2):
            yield network(chunk, past)
            past.advance()
        return
    pasts: dict[tuple[int, int], Stream] = {}
    for chunk in x.split(sizes, dim=2):
        rows = []
        for i, row in enumerate(plan.cut(chunk, scale_in)):
            rows.append([network(tile, pasts.setdefault((i, j), Stream())) for j, tile in enumerate(row)])
        yield plan.join(rows, scale_out)
        for past in pasts.values():
            past.advance()
