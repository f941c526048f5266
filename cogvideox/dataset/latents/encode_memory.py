"""Memory plan of encoding: the number of strips of each window size with which the VAE fits in free memory.

Whole clips (`norm_statistics="clip"`) need at least two feature maps of all frames at full resolution.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass

from cogvideox.dataset.ingest.clip_windows import ClipWindow
from cogvideox.errors import UserError
from cogvideox.formatting import format_gib
from cogvideox.geometry import NormStatistics, encode_chunks, format_frame_count, latent_shape
from cogvideox.pretrained.offload.hardware import detect_hardware
from cogvideox.pretrained.offload.plan import MEMORY_MARGIN
from cogvideox.pretrained.offload.transformer_cost import ITEMSIZE
from cogvideox.pretrained.offload.vae_cost import (
    VAESlicing,
    prepared_parameters,
    vae_activations,
    vae_parameters,
    vae_slicings,
)
from cogvideox.vae.config import VAEConfig

STRIP_PIXELS = 480 * 720  # larger frames are encoded in strips of about this size; the result is the same
READ_AHEAD = 3  # number of windows to prefetch

_MAX_STRIP_VALUES = 2**31  # cuDNN indexes with 32 bits
_OVERHEAD = 64 * 2**20  # bytes that torch allocates in addition to tensors

WindowSize = tuple[int, int, int]
"""Frames, height and width in pixels."""


@dataclass(frozen=True)
class EncodingBudget:
    """Memory for the VAE of a worker: its weights, the prefetched clips, and the feature maps of one clip.

    Attributes:
        free_bytes: free memory of the device, divided by the number of workers on it.
        host_free_bytes: free main memory for offloaded activations of a GPU, divided by the number of workers.
        dtype: name of the VAE's dtype.
        on_cpu: whether the device is a CPU.
    """

    free_bytes: int
    dtype: str = "float32"
    on_cpu: bool = True
    host_free_bytes: int = 2**60

    def choose_slicing(
        self, config: VAEConfig, size: WindowSize, norm_statistics: NormStatistics, *, batch_size: int = 1
    ) -> VAESlicing:
        """Return the fastest slicing with which a window fits in memory.

        Raises:
            UserError: no slicing fits; the message says how much memory is needed.
        """
        num_frames, height, width = size
        chunk_frames = max(encode_chunks(num_frames, norm_statistics))
        min_strips = max(1, round(height * width / STRIP_PIXELS))
        slicings = [s for s in vae_slicings(height // config.spatial_compression_ratio) if s.strips >= min_strips]
        slicings = slicings or [VAESlicing(min_strips)]
        peaks = [self.peak(config, size, norm_statistics, slicing, batch_size=batch_size) for slicing in slicings]
        for slicing, peak in zip(slicings, peaks):
            host_bytes = batch_size * self._host_bytes(config, size, norm_statistics, slicing)
            fits = peak <= MEMORY_MARGIN * self.free_bytes and host_bytes <= self.host_free_bytes
            if fits and self._can_convolve(config, (chunk_frames, height, width), slicing, batch_size):
                return slicing
        needed, free = format_gib(int(min(peaks) / MEMORY_MARGIN)), format_gib(self.free_bytes)
        is_whole_clip = len(encode_chunks(size[0], norm_statistics)) < len(encode_chunks(size[0]))
        scope = " as a whole clip" if is_whole_clip else ""
        advice = "encode in chunks (norm_statistics=chunk), or choose" if is_whole_clip else "choose"
        raise UserError(
            f"encoding {format_frame_count(size[0])} of {width}x{height}{scope} needs "
            f"{needed} of memory, but only {free} is available: {advice} fewer frames or a smaller size"
        )

    def describe(self, config: VAEConfig, windows: Collection[ClipWindow], norm_statistics: NormStatistics) -> str:
        """Describe the encoding of windows: in chunks or as whole clips, and the memory for the largest window."""
        largest = max((window.size for window in windows), key=math.prod)
        units = "as whole clips" if norm_statistics == "clip" else "in chunks"
        try:
            slicing = self.choose_slicing(config, largest, norm_statistics)
        except UserError as error:
            return f"{units}; {error}"
        strips = "" if slicing.strips == 1 else f", the VAE in {slicing.strips} strips"
        offload = ", activations offloaded" if slicing.offload else ""
        memory = format_gib(self.peak(config, largest, norm_statistics, slicing))
        return f"{units}{strips}{offload}; about {memory} for the largest"

    def peak(
        self,
        config: VAEConfig,
        size: WindowSize,
        norm_statistics: NormStatistics,
        slicing: VAESlicing,
        *,
        batch_size: int = 1,
    ) -> int:
        """Estimate the peak memory of a worker on its device, in bytes."""
        num_frames, height, width = size
        values, _ = self._activations(config, size, norm_statistics, slicing)
        itemsize, pixels = ITEMSIZE[self.dtype], 3 * num_frames * height * width
        clips = pixels * (4 * batch_size + (READ_AHEAD + 1 if self.on_cpu else 1))  # in float32, and in uint8
        weights = vae_parameters(config)
        if self.on_cpu:
            ratio = config.spatial_compression_ratio
            weights += prepared_parameters(config, height // ratio, width // ratio, slicing, decoder=False)
        return (weights + batch_size * values) * itemsize + clips + _OVERHEAD

    def _host_bytes(
        self, config: VAEConfig, size: WindowSize, norm_statistics: NormStatistics, slicing: VAESlicing
    ) -> int:
        return self._activations(config, size, norm_statistics, slicing)[1] * ITEMSIZE[self.dtype]

    def _activations(
        self, config: VAEConfig, size: WindowSize, norm_statistics: NormStatistics, slicing: VAESlicing
    ) -> tuple[int, int]:
        """Return the number of live values on the device and on the host."""
        latents = latent_shape(*size, ratio=config.spatial_compression_ratio)
        return vae_activations(
            config, *latents, slicing, decoder=False, on_cpu=self.on_cpu, norm_statistics=norm_statistics
        )

    def _can_convolve(self, config: VAEConfig, size: WindowSize, slicing: VAESlicing, batch_size: int) -> bool:
        num_frames, height, width = size
        values = batch_size * config.block_out_channels[0] * (num_frames + 2) * (height / slicing.strips + 2) * width
        return self.on_cpu or values < _MAX_STRIP_VALUES


def measure_budget(device: str, dtype: str, workers: int) -> EncodingBudget:
    """Divide the free memory of the devices among the workers.

    Args:
        device: "cuda" distributes the workers over all GPUs; "cuda:1" puts all workers on that GPU.
        workers: number of worker processes; 0 means this process.
    """
    import torch

    hardware = detect_hardware(torch.device(device), dtype, measured=False)
    on_cpu = hardware.device_type == "cpu"
    num_devices = torch.cuda.device_count() if device == "cuda" else 1
    free_bytes = hardware.free_bytes // max(1, -(-workers // num_devices))
    return EncodingBudget(free_bytes, dtype, on_cpu, int(MEMORY_MARGIN * hardware.host_free_bytes) // max(1, workers))
