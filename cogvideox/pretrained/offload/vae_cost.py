"""How large the VAE is and how much it computes, by arithmetic on its configuration; beside `sizes`. Imports no torch.

Nearly all of a chunk's memory is feature maps at full resolution: those that a ResNet block starts from, is in, and
ends with, the padded input of a convolution, and the two frames that each convolution keeps for the next chunk. In
strips of rows (`vae.inference.sliced`) the padded input and the newest results exist strip by strip; with `offload`
what waits does so in the CPU's memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from cogvideox import geometry
from cogvideox.vae.config import VAEConfig


def vae_parameters(config: VAEConfig) -> int:
    """Of both halves of the VAE."""
    convs = [*_convolutions(config, decoder=False), *_convolutions(config, decoder=True)]
    return sum((conv.inputs * conv.taps + 1) * conv.outputs for conv in convs) + _norms(config)


def vae_flops(config: VAEConfig, frames: int, height: int, width: int, *, decoder: bool) -> float:
    """Of encoding or decoding a clip of latent frames and latent pixels."""
    return sum(
        2.0 * conv.inputs * conv.outputs * conv.taps * conv.positions(frames, height, width)
        for conv in _convolutions(config, decoder=decoder)
    )


@dataclass(frozen=True)
class VAEMemoryMode:
    """How the VAE takes a chunk: in how many strips of rows, and whether what waits is outside: in the CPU's memory
    or, on a CPU, in temporary files."""

    strips: int = 1
    offload: bool = False


UNSLICED = VAEMemoryMode()
"""A chunk at once."""


@lru_cache(1024)
def vae_activations(
    config: VAEConfig,
    frames: int,
    height: int,
    width: int,
    how: VAEMemoryMode,
    *,
    decoder: bool,
    on_cpu: bool = False,
) -> tuple[int, int]:
    """Numbers that are alive at the worst moment of decoding or encoding a clip, on the device and, where `how` leaves
    something there, on the host.

    Args:
        frames, height, width: of the clip, in latents.
        on_cpu: there only what is kept for the next chunk waits outside.
    """
    num_frames = geometry.video_frames(frames)
    chunks = geometry.decode_chunks(frames) if decoder else geometry.encode_chunks(num_frames)
    layers = list(_convolutions(config, decoder=decoder))
    num_chunks = len(chunks)
    ledger = _Ledger(how, on_cpu, growth=int(num_chunks > 1))
    _walk(ledger, layers, chunks[0] if decoder else geometry.latent_frames(chunks[0]), decoder=decoder)
    peak, host, kept = ledger.peak, ledger.host, ledger.kept
    for growth in (0, -1)[max(3 - num_chunks, 0) :]:  # a chunk in the middle, and the last one
        ledger = _Ledger(how, on_cpu, kept=kept, growth=growth)
        _walk(ledger, layers, geometry.CHUNK, decoder=decoder, starts=0)
        peak, host = max(peak, ledger.peak), max(host, ledger.host)
    # Beside the features: the clip itself, and in the decoder the scales and shifts of the norms.
    small = 1.015 if decoder else 1.0
    clip = frames * config.latent_channels if decoder else num_frames * config.in_channels * layers[0].space ** 2
    return int(height * width * (peak * small + clip)), int(height * width * host)


def _walk(ledger: "_Ledger", layers: "list[Convolution]", frames: int, *, decoder: bool, starts: int = 1) -> None:
    """One chunk of so many latent frames, of which the first `starts` stand for one frame each."""
    i = 0
    while i < len(layers):
        conv = layers[i]
        num_frames = (frames - starts) * conv.time + starts
        area = conv.space**2
        if conv.taps == 9:
            before = (conv.space // 2) ** 2 if decoder else (conv.space * 2) ** 2
            ledger.resample(conv.inputs * num_frames, before, area, decoder=decoder)
        elif _is_pair(layers, i):
            ledger.resnet(conv.inputs, conv.outputs, num_frames * area, 2 * area)
            i += 1 + (i + 2 < len(layers) and layers[i + 2].taps == 1)
        else:
            ledger.single(conv.inputs, conv.outputs, num_frames * area, 2 * area)
        i += 1


def _is_pair(convolutions: "list[Convolution]", i: int) -> bool:
    """Whether a ResNet block begins here: two convolutions, the second from its outputs to as many."""
    if i + 1 >= len(convolutions) or i == 0:
        return False
    one, two = convolutions[i], convolutions[i + 1]
    return two.taps == 27 and one.space == two.space and two.inputs == two.outputs == one.outputs


class _Ledger:
    """What is alive, for each latent pixel, layer by layer as `vae.inference.sliced` has it. Areas are in those, too.

    Args:
        kept: what convolutions have kept of the chunk before.
        growth: whether that grows (in the first of several chunks: 1), stays (0) or shrinks (in the last: -1).
    """

    def __init__(self, how: VAEMemoryMode, on_cpu: bool, *, kept: float | int = 0, growth: int = 0) -> None:
        self.how, self.on_cpu, self.kept, self.growth = how, on_cpu, kept, growth
        self.peak = self.host = 0.0

    def resnet(self, c_in: int, c_out: int, frames: int, two: int) -> None:
        s = self.how.strips
        before, after = c_in * frames, c_out * frames
        room = c_in * (frames + two) / s
        self._see(before + after + room, after + room + before / s, before, c_in * two)
        room = c_out * (frames + two) / s
        passing = after + room if s == 1 else (2 * after) / s + room
        # In strips: while the second one is made, what the first one was made of is still there.
        self._see(before + after + passing, after + room + (before + 2 * after) / s, before, c_out * two)

    def single(self, c_in: int, c_out: int, frames: int, two: int) -> None:
        """A convolution that is not part of a ResNet block."""
        s = self.how.strips
        before, after, room = c_in * frames, c_out * frames, c_in * (frames + two) / s
        self._see(before + after + room, after + room + before / s, before, c_in * two)

    def resample(self, planes: int, before: int, after: int, *, decoder: bool) -> None:
        """`planes`: channels times frames, of what is convolved."""
        s = self.how.strips
        source, result = planes * before, planes * after
        if decoder:  # room for the source, all four phases, and the frames that they become
            self._see(source + result + (source + result) / s, (source + 3 * result) / s, source + result, 0)
        else:
            self._see(source + result + source / s, (2 * source + result) / s, source + result, 0)

    def _see(self, everything: float | int, offloaded: float | int, waiting: int, tail: int) -> None:
        """A moment: what is alive, on the device under `offload`, and then on the host."""
        is_streaming = self.growth or self.kept
        own = tail * min(1.0, 2 / self.how.strips) if is_streaming and self.growth >= 0 else 0.0
        if self.how.offload and self.on_cpu:
            self.peak = max(self.peak, everything + (tail / self.how.strips if is_streaming else 0.0))
        elif self.how.offload:
            self.peak = max(self.peak, offloaded + (tail / self.how.strips if is_streaming else 0.0))
            self.host = max(self.host, waiting + self.kept + own)
        else:
            self.peak = max(self.peak, everything + self.kept + own)
        self.kept += self.growth * tail


class Convolution(NamedTuple):
    """A convolution of the VAE: `space` times as high and wide as the latents, at `time` frames for a latent one."""

    inputs: int
    outputs: int
    taps: int
    space: int
    time: int

    def positions(self, frames: int, height: int, width: int) -> int:
        """Outputs per channel for latents of this size. The first latent frame is one frame alone."""
        return ((frames - 1) * self.time + 1) * height * width * self.space**2


def _convolutions(config: VAEConfig, *, decoder: bool) -> Iterator[Convolution]:
    """Every convolution of a half, without those of the norms, which are of the latents' size."""
    widths, z = config.block_out_channels, config.latent_channels
    top, deepest = len(widths) - 1, widths[-1]
    coarsening = [max(geometry.FRAME_RATIO >> level, 1) for level in range(len(widths))]

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
            time = min(space, geometry.FRAME_RATIO)
            for i in range(config.layers_per_block + 1):
                yield from resnet(before if i == 0 else width, width, space, time)
            if level:
                yield Convolution(width, width, 9, 2 * space, time)
            before = width
        yield Convolution(before, config.out_channels, 27, 2**top, geometry.FRAME_RATIO)
        return
    yield Convolution(config.in_channels, widths[0], 27, 2**top, geometry.FRAME_RATIO)
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
    """Parameters of all norms; those of the decoder have two convolutions of the latents each."""
    widths, deepest = config.block_out_channels, config.block_out_channels[-1]

    def of_levels(order: tuple[int, ...], num_resnets: int) -> int:
        before, total = order[0], 0
        for width in order:
            total += before + (2 * num_resnets - 1) * width
            before = width
        return total

    encoder = of_levels(widths, config.layers_per_block) + 5 * deepest
    decoder = of_levels(widths[::-1], config.layers_per_block + 1) + 4 * deepest + widths[0]
    return 2 * (encoder + decoder) + decoder * 2 * (config.latent_channels + 1)
