"""The inputs (model, workload) and the result (`MemoryPlan`) of memory planning."""

from dataclasses import dataclass

from cogvideox.formatting import format_duration, format_gib
from cogvideox.pretrained.model_spec import ComponentName
from cogvideox.pretrained.offload.hardware import Hardware
from cogvideox.pretrained.offload.transformer_cost import OffloadStrategy, WeightFormat, WeightLocation
from cogvideox.pretrained.offload.vae_cost import UNSLICED, VAESlicing
from cogvideox.text.config import T5Config
from cogvideox.transformer.config import TransformerConfig
from cogvideox.vae.config import VAEConfig

MEMORY_MARGIN = 0.94
"""Fraction of free memory that a plan may use, as a margin for allocator rounding and fragmentation."""


@dataclass(frozen=True)
class ModelProfile:
    """Properties of a model that a memory plan depends on. `itemsizes`: bytes per value in each component's files."""

    name: str
    transformer: TransformerConfig
    vae: VAEConfig
    text_encoder: T5Config
    text_length: int
    itemsizes: dict[ComponentName, int]


@dataclass(frozen=True)
class Workload:
    """Properties of a request that a memory plan depends on.

    Attributes:
        num_frames: number of frames to decode at the end.
        window_frames: number of frames denoised at once; lower than `num_frames` for a long video.
        batch_size: batch size of the transformer: 2 with guidance, 1 without it or with sequential guidance.
        calls_per_step: transformer calls per denoising step.
        num_prompts: number of prompts to encode.
        num_input_frames: number of frames of an input image or video to encode.
    """

    num_frames: int
    height: int
    width: int
    num_inference_steps: int
    window_frames: int
    batch_size: int = 2
    calls_per_step: int = 1
    num_prompts: int = 2
    num_input_frames: int = 0


@dataclass(frozen=True)
class MemoryPlan:
    """Placement of a model's weights and slicing of the VAE, with estimates of memory and time.

    Attributes:
        budget: device memory that the plan may use, in bytes.
        text_encoder, transformer: offload strategies. The VAE is always resident.
        weight_location: storage of group-offloaded matrices.
        vae_slicing: slicing of a chunk in the VAE.
        bytes_*: peak device memory of each phase; `bytes_host` is host memory, if the device is not the CPU.
        seconds_*: estimated time of each phase.
    """

    hardware: Hardware
    workload: Workload
    budget: int
    text_encoder: OffloadStrategy
    transformer: OffloadStrategy
    weight_location: WeightLocation
    weight_format: WeightFormat
    vae_slicing: VAESlicing
    bytes_text: int
    bytes_encode: int
    bytes_denoise: int
    bytes_decode: int
    bytes_host: int
    seconds_load: float
    seconds_text: float
    seconds_denoise: float
    seconds_decode: float

    @property
    def strategy(self) -> OffloadStrategy:
        """Strategy of the network that is offloaded the most."""
        if self.transformer == "group_offload":
            return "group_offload"
        return "resident" if (self.text_encoder, self.transformer) == ("resident", "resident") else "model_offload"

    @property
    def transformer_is_resident(self) -> bool:
        """Whether the transformer's weights stay on the device, unquantized."""
        return self.transformer == "resident" and self.weight_format == "exact"

    @property
    def peak(self) -> int:
        """Peak device memory in bytes."""
        return max(self.bytes_text, self.bytes_encode, self.bytes_denoise, self.bytes_decode)

    @property
    def seconds(self) -> float:
        """Estimated total time in seconds."""
        return self.seconds_load + self.seconds_text + self.seconds_denoise + self.seconds_decode

    @property
    def fits(self) -> bool:
        """Whether the plan stays within the budget and, for a GPU, within free host memory."""
        if self.hardware.device_type == "cpu":
            return self.peak <= self.budget
        return self.peak <= self.budget and self.bytes_host <= MEMORY_MARGIN * self.hardware.host_free_bytes

    @property
    def is_trivial(self) -> bool:
        """Whether the plan is not worth printing: a small resident model and a short run."""
        is_default = self.strategy == "resident" and self.weight_format == "exact"
        return is_default and self.peak < 2**30 and self.seconds < 60

    def __str__(self) -> str:
        """Summarize the plan in one sentence."""
        return (
            f"{self._describe_weights()}{self._describe_vae()}; peak about {format_gib(self.peak)} of "
            f"{format_gib(self.hardware.free_bytes)} free, about {format_duration(self.seconds)} on "
            f"{self.hardware.name} (estimated)"
        )

    def _describe_weights(self) -> str:
        def phrase(strategy: OffloadStrategy, location: WeightLocation) -> str:
            if strategy == "group_offload":
                return f"loaded block by block from {'main memory' if location == 'host' else location}"
            return "in memory" if strategy == "resident" else "loaded when used"

        weights = "everything in memory"
        if self.strategy != "resident":
            text_encoder = f"text encoder {phrase(self.text_encoder, 'disk')}"
            transformer = f"transformer {phrase(self.transformer, self.weight_location)}"
            weights = f"{text_encoder}, {transformer}, VAE in memory"
        is_exact = self.weight_format == "exact"
        return f"{weights}, {self.hardware.dtype if is_exact else f'{self.weight_format} weights (not exact)'}"

    def _describe_vae(self) -> str:
        strips = "" if self.vae_slicing == UNSLICED else f", VAE in {self.vae_slicing.strips} strips"
        target = "disk" if self.hardware.device_type == "cpu" else "main memory"
        return strips + (f" with activations offloaded to {target}" if self.vae_slicing.offload else "")

    def table(self) -> str:
        """Format memory and time of each phase, one line per phase."""
        phases = (
            ("load", None, self.seconds_load),
            ("text", self.bytes_text, self.seconds_text),
            *((("encode", self.bytes_encode, None),) if self.workload.num_input_frames else ()),
            ("denoise", self.bytes_denoise, self.seconds_denoise),
            ("decode", self.bytes_decode, self.seconds_decode),
        )
        return "\n".join(
            f"  {name:<8}{'' if size is None else format_gib(size):>9}"
            f"{'' if seconds is None else 'about ' + format_duration(seconds):>15}"
            for name, size, seconds in phases
        )
