"""The 3D causal VAE (paper section 2.1): 4x compression of time, 8x8 of space, 16 latent channels.

Axes: b batch, c channels, t frames, h w height and width in pixels; latents have z channels and lt, lh, lw.

The norms pool over time inside a chunk, so how a video is cut into chunks is part of the model: `encode` and `decode`
cut as the official weights expect it (`geometry.encode_chunks`, `geometry.decode_chunks`). A video of 4k+1 frames has
k+1 latent frames.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cogvideox import geometry
from cogvideox.errors import UserError
from cogvideox.vae.config import VAEConfig
from cogvideox.vae.conv_cache import ConvCache, Features, StreamingCache
from cogvideox.vae.inference.sliced import SlicedCache
from cogvideox.vae.inference.tiled import Tiling
from cogvideox.vae.layers import CausalConv3d, Downsample, GroupNorm, LatentNorm, ResnetBlock, Upsample
from cogvideox.vae.posterior import Posterior

Latents = Float[Tensor, "b z lt lh lw"]
Pixels = Float[Tensor, "b c t h w"]


class Level(nn.Module):
    """ResNet blocks of one width, then a change of resolution (none on the last level)."""

    def __init__(self, resnets: list[ResnetBlock], resample: Downsample | Upsample | None) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(resnets)
        self.resample = resample

    def forward(self, x: Features, latents: Tensor | None, conv_cache: ConvCache) -> Features:
        for resnet in self.resnets:
            x = conv_cache.resnet(resnet, x, latents)
        return x if self.resample is None else conv_cache.resample(self.resample, x)


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

    def forward(self, video: Pixels, conv_cache: ConvCache) -> Latents:
        x = conv_cache.convolve(conv_cache.open(video, 2 ** (len(self.levels) - 1)), None, self.conv_in, None)
        for level in self.levels:
            x = level(x, None, conv_cache)
        x = self.mid(x, None, conv_cache)
        return conv_cache.close(conv_cache.convolve(x, self.norm_out, self.conv_out, None))


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

    def forward(self, z: Latents, conv_cache: ConvCache) -> Pixels:
        x = conv_cache.convolve(conv_cache.open(z, 1), None, self.conv_in, None)
        x = self.mid(x, z, conv_cache)
        for level in self.levels:
            x = level(x, z, conv_cache)
        return conv_cache.close(conv_cache.convolve(x, self.norm_out, self.conv_out, z))


class CausalVAE(nn.Module):
    """Encoder, posterior and decoder, with the official chunking in time.

    In space a chunk goes whole, in `strips` of rows, which are exact, or in the tiles of `tiling`, which are not; tiles
    go in strips in their turn. `offload` leaves what waits for its turn in the CPU's memory (see `SlicedCache`). With
    gradients there are no strips.

    Latents here are unscaled: the transformer works on `latents * config.scaling_factor`.
    """

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def encode(
        self, video: Pixels, *, strips: int = 1, offload: bool = False, tiling: Tiling | None = None
    ) -> Posterior:
        """The posterior over the latents of a video with 4k+1 frames in [-1, 1].

        Raises:
            UserError: a frame count that is not 4k+1, a height or width that is not a multiple of 8, strips with
                gradients.
        """
        geometry.check_frames(video.shape[2])
        geometry.check_size(video.shape[3], video.shape[4], self.config.spatial_compression_ratio)
        ratio = self.config.spatial_compression_ratio
        chunks = video.split(geometry.encode_chunks(video.shape[2]), dim=2)
        moments = _run(self.encoder, chunks, _caches(strips, offload), tiling, ratio, pixels_in=True)
        return Posterior.from_moments(torch.cat(list(moments), dim=2))

    def decode_stream(
        self, z: Latents, *, strips: int = 1, offload: bool = False, tiling: Tiling | None = None
    ) -> Iterator[Pixels]:
        """Decode latents [b z lt lh lw] chunk by chunk, yielding frames [b c t h w] as soon as they are ready.

        Raises:
            UserError: strips with gradients.
        """
        ratio = self.config.spatial_compression_ratio
        chunks = z.split(geometry.decode_chunks(z.shape[2]), dim=2)
        yield from _run(self.decoder, chunks, _caches(strips, offload), tiling, ratio, pixels_in=False)

    def decode(self, z: Latents, *, strips: int = 1, offload: bool = False, tiling: Tiling | None = None) -> Pixels:
        """Decode latents [b z lt lh lw] to a video [b c 4*(lt-1)+1 8*lh 8*lw], about in [-1, 1].

        Raises:
            UserError: strips with gradients.
        """
        return torch.cat(list(self.decode_stream(z, strips=strips, offload=offload, tiling=tiling)), dim=2)


def _caches(strips: int, offload: bool) -> Callable[[bool], StreamingCache]:
    """What makes the past of a video, or of a tile of it, told whether there is only one chunk."""
    if not torch.is_grad_enabled():
        return lambda is_last: SlicedCache(strips, offload=offload, is_last=is_last)
    if strips != 1 or offload:
        raise UserError(f"strips={strips}, offload={offload}: they work without gradients only (torch.no_grad())")
    return lambda is_last: StreamingCache(is_last=is_last)


def _run(
    network: Callable[[Tensor, ConvCache], Tensor],
    chunks: Sequence[Tensor],
    make_cache: Callable[[bool], StreamingCache],
    tiling: Tiling | None,
    ratio: int,
    *,
    pixels_in: bool,
) -> Iterator[Tensor]:
    """Send chunks of time through the network; with tiling tile by tile, each tile with a past of its own."""
    scale_in, scale_out = (ratio, 1) if pixels_in else (1, ratio)
    plan = None if tiling is None else tiling.plan(ratio)
    if plan is not None and plan.covers(chunks[0], scale_in):
        plan = None
    caches: dict[tuple[int, int], StreamingCache] = {}
    for number, chunk in enumerate(chunks, start=1):
        rows = [
            [network(tile, caches.setdefault((i, j), make_cache(len(chunks) == 1))) for j, tile in enumerate(row)]
            for i, row in enumerate([[chunk]] if plan is None else plan.cut(chunk, scale_in))
        ]
        yield rows[0][0] if plan is None else plan.join(rows, scale_out)
        for conv_cache in caches.values():
            conv_cache.advance(is_last=number == len(chunks) - 1)
