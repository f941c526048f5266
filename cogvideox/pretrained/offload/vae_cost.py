"""Memory and FLOPs of the VAE, computed from its config.

Nearly all memory of a chunk is used by feature maps at full resolution: the input, intermediate and output feature maps
of a ResNet block, the padded input of a convolution, and the two frames that each convolution caches for the next
chunk. With strips of rows (`vae.inference.sliced`), the padded input and new outputs exist for one strip at a time;
with `offload`, feature maps that are not in use are moved to host memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

from cogvideox import geometry
from cogvideox.vae.config import MAX_PREPARED_PIXELS, MIN_SUMMED_CHANNELS, VAEConfig


def vae_parameters(config: VAEConfig) -> int:
    """Count the parameters of encoder and decoder."""
    convs = [*_convolutions(config, decoder=False), *_convolutions(config, decoder=True)]
    return sum((conv.inputs * conv.taps + 1) * conv.outputs for conv in convs) + _norms(config)


def vae_flops(config: VAEConfig, frames: int, height: int, width: int, *, decoder: bool) -> float:
    """Count the FLOPs of encoding or decoding a clip; sizes in latents."""
    return sum(
        2.0 * conv.inputs * conv.outputs * conv.taps * conv.positions(frames, height, width)
        for conv in _convolutions(config, decoder=decoder)
    )


def prepared_parameters(config: VAEConfig, height: int, width: int, slicing: "VAESlicing", *, decoder: bool) -> int:
    """Count the values of the weights that a CPU keeps in addition (`vae.inference.convolutions`); sizes in latents."""
    if slicing != UNSLICED:
        return 0
    total = 0
    for conv in _convolutions(config, decoder=decoder):
        if conv.taps == 27 and conv.space**2 * height * width <= MAX_PREPARED_PIXELS:
            copies = 2 if conv.inputs >= MIN_SUMMED_CHANNELS else 1  # all taps, and sums of two and three
            total += copies * conv.inputs * conv.outputs * conv.taps
        elif decoder and conv.taps == 9 and (conv.space // 2) ** 2 * height * width <= MAX_PREPARED_PIXELS:
            total += conv.inputs * conv.outputs * 16  # 2x2 taps for each of 2x2 pixels
    return total


@dataclass(frozen=True)
class VAESlicing:
    """Slicing of a chunk in the VAE to save memory; results are equal up to rounding.

    Attributes:
        strips: number of strips of rows that are processed one after the other.
        offload: whether to move feature maps that are not in use to host memory or, on a CPU, to temporary files.
    """

    strips: int = 1
    offload: bool = False


UNSLICED = VAESlicing()
_STRIPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)


def vae_slicings(num_rows: int) -> list[VAESlicing]:
    """List the slicings of a frame with this number of latent rows, from the fastest to the lowest memory."""
    slicings = [VAESlicing(strips) for strips in _STRIPS if strips <= num_rows]
    return slicings + [replace(slicing, offload=True) for slicing in slicings if slicing.strips > 1]


@lru_cache(1024)
def vae_activations(
    config: VAEConfig,
    frames: int,
    height: int,
    width: int,
    slicing: VAESlicing,
    *,
    decoder: bool,
    on_cpu: bool = False,
    norm_statistics: geometry.NormStatistics = "chunk",
) -> tuple[int, int]:
    """Estimate the peak number of live values while a clip is decoded or encoded, on the device and on the host.

    Args:
        frames, height, width: size of the clip in latents.
        on_cpu: whether the device is a CPU, where only the cache for the next chunk is offloaded.
        norm_statistics: chunks of the encoder (see `CausalVAE.encode`).
    """
    num_frames = geometry.video_frames(frames)
    chunks = geometry.decode_chunks(frames) if decoder else geometry.encode_chunks(num_frames, norm_statistics)
    layers = list(_convolutions(config, decoder=decoder))
    num_chunks = len(chunks)
    tracker = _PeakTracker(slicing, on_cpu, growth=int(num_chunks > 1))
    _track_chunk(tracker, layers, chunks[0] if decoder else geometry.latent_frames(chunks[0]), decoder=decoder)
    peak, host, cached = tracker.peak, tracker.host, tracker.cached
    for growth in (0, -1)[max(3 - num_chunks, 0) :]:  # a middle chunk, and the last one
        tracker = _PeakTracker(slicing, on_cpu, cached=cached, growth=growth)
        _track_chunk(tracker, layers, geometry.CHUNK, decoder=decoder, single_frames=0)
        peak, host = max(peak, tracker.peak), max(host, tracker.host)
    # In addition to feature maps: the clip, and in the decoder the scales and shifts of the norms.
    small = 1.015 if decoder else 1.0
    clip = frames * config.latent_channels if decoder else num_frames * config.in_channels * layers[0].space ** 2
    return int(height * width * (peak * small + clip)), int(height * width * host)


def _track_chunk(
    tracker: "_PeakTracker", layers: "list[Convolution]", frames: int, *, decoder: bool, single_frames: int = 1
) -> None:
    """Track one chunk of latent frames; each of the first `single_frames` corresponds to a single frame."""
    i = 0
    while i < len(layers):
        conv = layers[i]
        num_frames = (frames - single_frames) * conv.time + single_frames
        area = conv.space**2
        if conv.taps == 9:
            before = (conv.space // 2) ** 2 if decoder else (conv.space * 2) ** 2
            tracker.resample(conv.inputs * num_frames, before, area, decoder=decoder)
        elif _is_resnet(layers, i):
            tracker.resnet(conv.inputs, conv.outputs, num_frames * area, 2 * area)
            i += 1 + (i + 2 < len(layers) and layers[i + 2].taps == 1)
        else:
            tracker.convolution(conv.inputs, conv.outputs, num_frames * area, 2 * area)
        i += 1


def _is_resnet(convolutions: "list[Convolution]", i: int) -> bool:
    """Return whether a ResNet block starts at i: two convolutions, the second with as many outputs as inputs."""
    if i + 1 >= len(convolutions) or i == 0:
        return False
    first, second = convolutions[i], convolutions[i + 1]
    return second.taps == 27 and first.space == second.space and second.inputs == second.outputs == first.outputs


class _PeakTracker:
    """Tracks live values layer by layer, in the order of `vae.inference.sliced`. Sizes are per latent pixel.

    Args:
        cached: number of values that convolutions have cached from the previous chunk.
        growth: change of the cache: 1 in the first of several chunks (grows), 0 (constant), -1 in the last (shrinks).
    """

    def __init__(self, slicing: VAESlicing, on_cpu: bool, *, cached: float | int = 0, growth: int = 0) -> None:
        self.slicing, self.on_cpu, self.cached, self.growth = slicing, on_cpu, cached, growth
        self.peak = self.host = 0.0

    def resnet(self, c_in: int, c_out: int, frames: int, cached_frames: int) -> None:
        """Track a ResNet block. `cached_frames`: size of the two cached frames of one channel."""
        s = self.slicing.strips
        before, after = c_in * frames, c_out * frames
        padded = c_in * (frames + cached_frames) / s
        self._update(before + after + padded, after + padded + before / s, before, c_in * cached_frames)
        padded = c_out * (frames + cached_frames) / s
        second = after + padded if s == 1 else (2 * after) / s + padded
        # With strips, the first convolution's input is still alive while the second output is computed.
        self._update(before + after + second, after + padded + (before + 2 * after) / s, before, c_out * cached_frames)

    def convolution(self, c_in: int, c_out: int, frames: int, cached_frames: int) -> None:
        """Track a convolution outside of ResNet blocks."""
        s = self.slicing.strips
        before, after, padded = c_in * frames, c_out * frames, c_in * (frames + cached_frames) / s
        self._update(before + after + padded, after + padded + before / s, before, c_in * cached_frames)

    def resample(self, channel_frames: int, before: int, after: int, *, decoder: bool) -> None:
        """Track a resampling layer. `channel_frames`: channels times frames of the convolution's input."""
        s = self.slicing.strips
        source, result = channel_frames * before, channel_frames * after
        if decoder:  # the source, all four phases, and the frames assembled from them
            self._update(source + result + (source + result) / s, (source + 3 * result) / s, source + result, 0)
        else:
            self._update(source + result + source / s, (2 * source + result) / s, source + result, 0)

    def _update(self, total: float | int, on_device: float | int, offloaded: float | int, tail: int) -> None:
        """Update the peaks.

        Args:
            total: number of live values.
            on_device, offloaded: number of values on the device and on the host with `offload`.
            tail: number of values that the layer caches for the next chunk.
        """
        is_streaming = self.growth or self.cached
        new_cached = tail * min(1.0, 2 / self.slicing.strips) if is_streaming and self.growth >= 0 else 0.0
        if self.slicing.offload and self.on_cpu:
            self.peak = max(self.peak, total + (tail / self.slicing.strips if is_streaming else 0.0))
        elif self.slicing.offload:
            self.peak = max(self.peak, on_device + (tail / self.slicing.strips if is_streaming else 0.0))
            self.host = max(self.host, offloaded + self.cached + new_cached)
        else:
            self.peak = max(self.peak, total + self.cached + new_cached)
        self.cached += self.growth * tail


class Convolution(NamedTuple):
    """A convolution of the VAE.

    Attributes:
        inputs, outputs: numbers of channels.
        taps: number of weights per pair of channels.
        space: height and width of the output, relative to the latents.
        time: frames of the output per latent frame.
    """

    inputs: int
    outputs: int
    taps: int
    space: int
    time: int

    def positions(self, frames: int, height: int, width: int) -> int:
        """Return the number of values of an output channel. The first of `frames` latent frames is a single frame."""
        return ((frames - 1) * self.time + 1) * height * width * self.space**2


def _convolutions(config: VAEConfig, *, decoder: bool) -> Iterator[Convolution]:
    """Yield all convolutions of the encoder or decoder except those in the norms, which have the latents' size."""
    widths, z, ratio = config.block_out_channels, config.latent_channels, config.temporal_compression_ratio
    top, deepest = len(widths) - 1, widths[-1]
    coarsening = [max(ratio >> level, 1) for level in range(len(widths))]

    def resnet(before: int, width: int, space: int, time: int) -> Iterator[Convolution]:
        yield Convolution(before, width, 27, space, time)
        yield Convolution(width, width, 27, space, time)
        if before != width:
            yield Convolution(before, width, 1, space, time)

    mid = [conv for _ in range(2) for conv in resnet(deepest, deepest, 1, 1)]
    if decoder:
        yield Convolution(z, deepest, 27, 1, 1)
        yield from mid
        before = deepest
        for level in reversed(range(top + 1)):
            space, width = 2 ** (top - level), widths[level]
            time = min(space, ratio)
            for i in range(config.layers_per_block + 1):
                yield from resnet(before if i == 0 else width, width, space, time)
            if level:
                yield Convolution(width, width, 9, 2 * space, time)
            before = width
        yield Convolution(before, config.out_channels, 27, 2**top, ratio)
        return
    yield Convolution(config.in_channels, widths[0], 27, 2**top, ratio)
    before = widths[0]
    for level, width in enumerate(widths):
        space, time = 2 ** (top - level), coarsening[level]
        for i in range(config.layers_per_block):
            yield from resnet(before if i == 0 else width, width, space, time)
        if level < top:
            yield Convolution(width, width, 9, space // 2, coarsening[level + 1])
        before = width
    yield from mid
    yield Convolution(deepest, 2 * z, 27, 1, 1)


def _norms(config: VAEConfig) -> int:
    """Count the parameters of all norms; each norm in the decoder also has two convolutions over the latents."""
    widths, deepest = config.block_out_channels, config.block_out_channels[-1]

    def count(order: tuple[int, ...], num_resnets: int) -> int:
        before, total = order[0], 0
        for width in order:
            total += before + (2 * num_resnets - 1) * width
            before = width
        return total

    encoder = count(widths, config.layers_per_block) + 5 * deepest
    decoder = count(widths[::-1], config.layers_per_block + 1) + 4 * deepest + widths[0]
    return 2 * (encoder + decoder) + decoder * 2 * (config.latent_channels + 1)
