"""The 3D causal VAE (paper section 2.1): 4x compression of time, 8x8 of space, 16 latent channels.

Norm statistics include all frames of a chunk, so the division of a video into chunks is part of the model. `encode` and
`decode` use the chunks of diffusers (`geometry.encode_chunks`, `geometry.decode_chunks`). The authors encode each
training clip as one chunk: `encode(norm_statistics="clip")`. A video of 4k+1 frames has k+1 latent frames.

There are two forward passes with equal results: `networks` with gradients, `inference.sliced` without.

Axes: b batch, c channels, t frames, h w height and width in pixels; latents have z channels and lt, lh, lw.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from cogvideox import geometry
from cogvideox.errors import UserError
from cogvideox.vae.causal_conv import StreamingCache, SymmetricCache
from cogvideox.vae.config import VAEConfig
from cogvideox.vae.inference import sliced
from cogvideox.vae.inference.convolutions import PreparedWeights
from cogvideox.vae.inference.sliced_cache import SlicedCache
from cogvideox.vae.inference.tiled import Tiling
from cogvideox.vae.networks import Decoder, Encoder, Latents, Pixels
from cogvideox.vae.posterior import Posterior


class CausalVAE(nn.Module):
    """The VAE with the official chunking in time.

    Latents are unscaled; the transformer uses them multiplied by `scaling_factor`.

    Three options of the methods reduce peak memory and can be combined. The first two require `torch.no_grad()`.
    strips: compute each chunk in this many strips of rows; exact.
    offload: keep strips that are not in use, and frames for the next chunk, in CPU memory (`SlicedCache`); exact.
    tiling: compute each chunk in overlapping tiles; approximate.
    """

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.is_causal = config.time_padding == "causal"
        self.prepared_weights = PreparedWeights()

    def _apply(self, fn: Callable[..., Tensor], recurse: bool = True) -> "CausalVAE":
        self.prepared_weights.clear()  # moved or cast weights are prepared again
        return super()._apply(fn, recurse)

    def encode(
        self,
        video: Pixels,
        *,
        norm_statistics: geometry.NormStatistics = "chunk",
        strips: int = 1,
        offload: bool = False,
        tiling: Tiling | None = None,
    ) -> Posterior:
        """Encode a video [b 3 4k+1 h w] in [-1, 1] to the posterior over its latents [b z k+1 h/8 w/8].

        Args:
            norm_statistics: "chunk" encodes in chunks, as diffusers does; "clip" encodes the whole video as one chunk,
                as the authors' training code does. The two differ above 13 frames. Without causal padding, the whole
                video is always one chunk.

        Raises:
            UserError: the number of frames is not 4k+1, the height or width is not a multiple of 8, or `strips` or
                `offload` is used with gradients.
        """
        num_frames, frame_ratio = video.shape[2], self.config.temporal_compression_ratio
        geometry.check_frame_count(num_frames, frame_ratio=frame_ratio)
        geometry.check_size(video.shape[3], video.shape[4], self.config.spatial_compression_ratio)
        ratio = self.config.spatial_compression_ratio
        frames_of_chunks = geometry.encode_chunks(num_frames, norm_statistics, frame_ratio)
        chunks = video.split(frames_of_chunks if self.is_causal else num_frames, dim=2)
        forward, make_cache = self._forward_pass(self.encoder, sliced.encode, strips, offload)
        moments = _run_chunks(forward, make_cache, chunks, tiling, ratio, pixels_in=True)
        return Posterior.from_moments(torch.cat(list(moments), dim=2))

    def decode_stream(
        self, z: Latents, *, strips: int = 1, offload: bool = False, tiling: Tiling | None = None
    ) -> Iterator[Pixels]:
        """Decode latents [b z lt lh lw] chunk by chunk, yielding the frames [b c t h w] of each chunk.

        Raises:
            UserError: `strips` or `offload` is used with gradients.
        """
        ratio = self.config.spatial_compression_ratio
        frames_of_chunks = geometry.decode_chunks(z.shape[2], self.config.temporal_compression_ratio)
        chunks = z.split(frames_of_chunks if self.is_causal else z.shape[2], dim=2)
        forward, make_cache = self._forward_pass(self.decoder, sliced.decode, strips, offload)
        yield from _run_chunks(forward, make_cache, chunks, tiling, ratio, pixels_in=False)

    def decode(self, z: Latents, *, strips: int = 1, offload: bool = False, tiling: Tiling | None = None) -> Pixels:
        """Decode latents [b z lt lh lw] to a video [b c 4*(lt-1)+1 8*lh 8*lw], approximately in [-1, 1].

        Raises:
            UserError: `strips` or `offload` is used with gradients.
        """
        return torch.cat(list(self.decode_stream(z, strips=strips, offload=offload, tiling=tiling)), dim=2)

    def _forward_pass(
        self, network: Encoder | Decoder, sliced_pass: Callable[..., Tensor], strips: int, offload: bool
    ) -> tuple[Callable[[Tensor, Any], Tensor], Callable[..., StreamingCache | SlicedCache]]:
        """Return the function that runs the network on a chunk with a conv_cache, and the constructor of that cache."""
        if self.is_causal and not torch.is_grad_enabled():
            # Strips and offloading reduce memory, so nothing is kept.
            prepared = self.prepared_weights if strips == 1 and not offload else None
            make_cache = partial(SlicedCache, strips, offload=offload, prepared_weights=prepared)
            return partial(sliced_pass, network), make_cache
        if strips != 1 or offload:
            raise UserError(
                f"strips={strips}, offload={offload}: both options work only without gradients and with causal "
                "padding in time; call the VAE under torch.no_grad()"
            )
        return network, StreamingCache if self.is_causal else SymmetricCache


def _run_chunks(
    forward: Callable[[Tensor, Any], Tensor],
    make_cache: Callable[..., StreamingCache | SlicedCache],
    chunks: Sequence[Tensor],
    tiling: Tiling | None,
    ratio: int,
    *,
    pixels_in: bool,
) -> Iterator[Tensor]:
    """Yield the output of each chunk in order. With tiling, each tile has its own conv_cache."""
    scale_in, scale_out = (ratio, 1) if pixels_in else (1, ratio)
    plan = None if tiling is None else tiling.plan(ratio)
    if plan is not None and plan.covers(chunks[0], scale_in):
        plan = None
    caches: dict[tuple[int, int], StreamingCache | SlicedCache] = {}
    for index, chunk in enumerate(chunks):
        rows = [[chunk]] if plan is None else plan.cut(chunk, scale_in)
        for i, row in enumerate(rows):
            for j, tile in enumerate(row):
                if index == 0:
                    caches[i, j] = make_cache(is_last=len(chunks) == 1)
                row[j] = forward(tile, caches[i, j])
        yield rows[0][0] if plan is None else plan.join(rows, scale_out)
        for conv_cache in caches.values():
            conv_cache.advance(is_last=index + 1 == len(chunks) - 1)
