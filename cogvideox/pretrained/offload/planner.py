"""A memory plan: where the networks of a model lie while it makes a video, so that it fits what is free.

Made of the model's configurations, the request's size and the free memory, before anything is loaded and without torch.
Everything a plan chooses from is exact: the same video comes out, to rounding. Only one-byte storage changes numbers,
and is never chosen unless asked for.

Each of the text encoder and the transformer
- `stays`: it is loaded once and lies on the device;
- comes in `turns`: it is loaded when it is used, and then makes room for the next;
- is `streamed`: its blocks come one after another, the next one while one runs (`streaming`).
The VAE is small and stays; its activations are large, and are made smaller by strips of rows (`vae.inference.sliced`).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from cogvideox import geometry
from cogvideox.errors import UserError
from cogvideox.pretrained.model_spec import ComponentName
from cogvideox.pretrained.offload.hardware import DISK_BANDWIDTH, Hardware
from cogvideox.pretrained.offload.transformer_cost import (
    ITEMSIZE,
    BatchShape,
    OffloadStrategy,
    WeightFootprint,
    WeightFormat,
    WeightLocation,
    text_activations,
    text_flops,
    text_parameters,
    transformer_activations,
    transformer_flops,
    transformer_parameters,
)
from cogvideox.pretrained.offload.vae_cost import VAEMemoryMode, vae_activations, vae_flops, vae_parameters
from cogvideox.text.config import T5Config
from cogvideox.transformer.config import TransformerConfig
from cogvideox.vae.config import VAEConfig

ModelPlacement = Literal["resident", "model_offload", "group_offload"]
MemoryBudget = Literal["auto", "speed", "low"] | int
"""What to prefer, or how many bytes the whole may take."""

# From the fastest to the smallest. The text encoder is used once for a text, so that streaming it costs little.
STRATEGIES: tuple[tuple[OffloadStrategy, OffloadStrategy], ...] = (
    ("resident", "resident"),
    ("group_offload", "resident"),
    ("model_offload", "model_offload"),
    ("group_offload", "model_offload"),
    ("group_offload", "group_offload"),
)
_STRIPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
_BASE, _BASE_OF_TEXT = 32 * 2**20, 8 * 2**20
"""What torch allocates on a CPU beside tensors: its kernels for the shapes at hand, and stacks. A text is short."""
_MARGIN = 0.94
"""How much of what is free is planned with: allocators round up and leave gaps."""


@dataclass(frozen=True)
class ModelProfile:
    """What a plan has to know of a model. `stored`: bytes of a number in its files, by part."""

    name: str
    transformer: TransformerConfig
    vae: VAEConfig
    text: T5Config
    text_length: int
    itemsizes: dict[ComponentName, int]


@dataclass(frozen=True)
class Workload:
    """What is asked of it.

    num_frames: of the whole video, which are decoded.
    at_once: frames that are denoised together; less than `num_frames` in windows.
    batch: clips that the transformer takes at once: 2 under guidance, 1 without it or with one half after the other.
    calls: of the transformer in a step.
    num_given: frames of a picture or clip that are encoded first.
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
    """Where everything lies, and what to expect of it: bytes at the worst moment of each phase, on the device, and
    seconds, which are an estimate. `budget`: bytes of the device that were planned with."""

    hardware: Hardware
    workload: Workload
    budget: int
    text_encoder: OffloadStrategy
    transformer: OffloadStrategy
    weight_location: WeightLocation
    weight_format: WeightFormat
    vae: VAEMemoryMode
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
    def placement(self) -> ModelPlacement:
        if self.transformer == "group_offload":
            return "group_offload"
        return "resident" if (self.text_encoder, self.transformer) == ("resident", "resident") else "model_offload"

    @property
    def weights_stay_exact(self) -> bool:
        """Whether the transformer's weights are those that it computes with, all the time."""
        return self.transformer == "resident" and self.weight_format == "exact"

    @property
    def peak(self) -> int:
        """Bytes on the device at the worst moment of all."""
        return max(self.bytes_text, self.bytes_encode, self.bytes_denoise, self.bytes_decode)

    @property
    def seconds(self) -> float:
        return self.seconds_load + self.seconds_text + self.seconds_denoise + self.seconds_decode

    @property
    def fits(self) -> bool:
        """Whether it stays within the budget, and within what is free of the host."""
        if self.hardware.device_type == "cpu":
            return self.peak <= self.budget
        return self.peak <= self.budget and self.bytes_host <= _MARGIN * self.hardware.host_free_bytes

    @property
    def is_small(self) -> bool:
        """Whether there is nothing that anybody would want to know before it begins."""
        is_plain = self.placement == "resident" and self.weight_format == "exact"
        return is_plain and self.peak < 2**30 and self.seconds < 60

    def __str__(self) -> str:
        """In a sentence."""
        words = {
            "resident": "{} in memory",
            "model_offload": "{} in its turn",
            "group_offload": "{} streamed block by block",
        }
        if self.placement == "resident":
            where = "everything in memory"
        else:
            parts = [
                words[self.text_encoder].format("text encoder"),
                words[self.transformer].format("transformer"),
                "VAE in memory",
            ]
            where = ", ".join(parts)
        if "group_offload" in (self.text_encoder, self.transformer):
            where += f" (from the {self.weight_location})"
        form = self.hardware.dtype if self.weight_format == "exact" else f"{self.weight_format} storage (not exact)"
        strips = "" if self.vae == VAEMemoryMode() else f", VAE in {self.vae.strips} strips"
        if self.vae.offload:
            strips += f" with what waits {'on disk' if self.hardware.device_type == 'cpu' else 'in main memory'}"
        free = format_gib(self.hardware.free_bytes)
        return (
            f"{where}, {form}{strips}; peak about {format_gib(self.peak)} of {free} free, "
            f"about {_duration(self.seconds)} on {self.hardware.name} (an estimate)"
        )

    def table(self) -> str:
        """Each phase in a line."""
        phases = (
            ("load", None, self.seconds_load),
            ("text", self.bytes_text, self.seconds_text),
            *((("encode", self.bytes_encode, None),) if self.workload.num_input_frames else ()),
            ("denoise", self.bytes_denoise, self.seconds_denoise),
            ("decode", self.bytes_decode, self.seconds_decode),
        )
        return "\n".join(
            f"  {name:<8}{'' if size is None else format_gib(size):>9}"
            f"{'' if seconds is None else 'about ' + _duration(seconds):>15}"
            for name, size, seconds in phases
        )


def plan_memory(
    model: ModelProfile,
    workload: Workload,
    hardware: Hardware,
    memory: MemoryBudget = "auto",
    weight_format: WeightFormat = "exact",
) -> MemoryPlan:
    """The first that fits, from the fastest to the smallest.

    Args:
        memory: "auto" plans with what is free; a number of bytes, with that at most; "speed" keeps everything on the
            device without asking whether it fits; "low" takes the smallest.

    Raises:
        UserError: nothing fits; the sentence has what is needed, and the nearest request that would fit.
    """
    if memory == "speed":
        return estimate_plan(model, workload, hardware, ("resident", "resident"), VAEMemoryMode(), weight_format)
    free = hardware.free_bytes if isinstance(memory, str) else min(memory, hardware.free_bytes)
    budget = int(_MARGIN * free)
    smallest: MemoryPlan | None = None
    for one in _all(model, workload, hardware, weight_format, budget):
        if one.fits and memory != "low":
            return one
        smallest = one if smallest is None or one.peak < smallest.peak else smallest
    assert smallest is not None
    if smallest.fits:
        return replace(smallest, budget=smallest.peak)
    if smallest.peak <= budget:
        host = format_gib(int(smallest.bytes_host / _MARGIN))
        there = format_gib(hardware.host_free_bytes)
        raise UserError(f"{model.name} needs {host} of main memory, and {there} are free")
    there = f"{format_gib(free)} are {'free' if free == hardware.free_bytes else 'allowed'} on {hardware.name}"
    raise UserError(
        f"{model.name} needs {format_gib(int(smallest.peak / _MARGIN))} for {_size(workload)} even in its smallest "
        f"plan, and {there}{_nearest(model, workload, hardware, budget, weight_format)}"
    )


def replan_vae(model: ModelProfile, workload: Workload, before: MemoryPlan) -> MemoryPlan:
    """The plan for another request to networks that are placed already: only how the VAE decodes is chosen anew.

    Where nothing fits it is the smallest, for an estimate is no reason to refuse what was loaded for.
    """
    if workload == before.workload:
        return before
    strategies = (before.text_encoder, before.transformer)
    plans = [
        estimate_plan(model, workload, before.hardware, strategies, how, before.weight_format)
        for how in _decodings(model, workload)
    ]
    plans = [replace(one, budget=before.budget) for one in plans]
    return next((one for one in plans if one.fits), plans[-1])


def estimate_plan(
    model: ModelProfile,
    workload: Workload,
    hardware: Hardware,
    strategies: tuple[OffloadStrategy, OffloadStrategy],
    how: VAEMemoryMode,
    weight_format: WeightFormat = "exact",
    budget: int | None = None,
) -> MemoryPlan:
    """What to expect of one choice; without a budget, that is what is free."""
    rates, size, on_cpu = hardware.rates, ITEMSIZE[hardware.dtype], hardware.device_type == "cpu"
    text = WeightFootprint.of(
        text_parameters(model.text), strategies[0], hardware, weight_format, model.itemsizes["text_encoder"]
    )
    net = WeightFootprint.of(
        transformer_parameters(model.transformer),
        strategies[1],
        hardware,
        weight_format,
        model.itemsizes["transformer"],
    )
    vae = vae_parameters(model.vae) * size
    patch_t, ratio = model.transformer.patch_size_t or 1, model.vae.spatial_compression_ratio
    frames, height, width = geometry.latent_shape(
        workload.window_frames, workload.height, workload.width, patch_t=patch_t, ratio=ratio
    )
    latents = geometry.latent_frames(workload.num_frames)
    clip = BatchShape(workload.batch_size, frames, height, width, model.text_length)
    steps = workload.num_inference_steps

    pixels = workload.num_frames * workload.height * workload.width * 3
    decoded, decoded_host = vae_activations(model.vae, latents, height, width, how, decoder=True, on_cpu=on_cpu)
    given = geometry.latent_frames(workload.num_input_frames) if workload.num_input_frames else 0
    encoded = 0
    if given:
        encoded, _ = vae_activations(model.vae, given, height, width, how, decoder=False, on_cpu=on_cpu)
    frames_bytes, base, base_of_text = (pixels, _BASE, _BASE_OF_TEXT) if on_cpu else (0, 0, 0)

    linear, attention = transformer_flops(model.transformer, clip)
    call = linear / rates.linear + attention / rates.attention
    coming = net.moved / (DISK_BANDWIDTH if net.weight_location == "disk" and not on_cpu else rates.transfer)
    per_call = call + coming if on_cpu else max(call, coming)
    per_text = max(text_flops(model.text, model.text_length) / rates.linear, text.moved / DISK_BANDWIDTH)
    overhead = 1.0 + 0.02 * (how.strips - 1) + 0.5 * how.offload
    loads = [w.file_bytes for w in (text, net) if w.keep != "group_offload"]
    return MemoryPlan(
        hardware=hardware,
        workload=workload,
        budget=int(_MARGIN * hardware.free_bytes) if budget is None else budget,
        text_encoder=strategies[0],
        transformer=strategies[1],
        weight_location=net.weight_location if strategies[1] == "group_offload" else text.weight_location,
        weight_format=weight_format,
        vae=how,
        bytes_text=base_of_text
        + vae
        + text.used
        + net.idle
        + text_activations(model.text, model.text_length, hardware.dtype),
        bytes_encode=(base + vae + text.idle + net.idle + encoded * size) if given else 0,
        bytes_denoise=base
        + vae
        + text.idle
        + net.used
        + transformer_activations(model.transformer, clip, steps, hardware.dtype),
        bytes_decode=base + vae + text.idle + net.idle + decoded * size + frames_bytes,
        bytes_host=(text.host + net.host + decoded_host * size + pixels) if not on_cpu else 0,
        seconds_load=sum(loads) / DISK_BANDWIDTH,
        seconds_text=workload.num_prompts * per_text,
        seconds_denoise=steps * workload.calls_per_step * per_call,
        seconds_decode=overhead * vae_flops(model.vae, latents, height, width, decoder=True) / rates.convolution,
    )


def _all(
    model: ModelProfile, workload: Workload, hardware: Hardware, weight_format: WeightFormat, budget: int
) -> Iterator[MemoryPlan]:
    for strategies in STRATEGIES:
        for how in _decodings(model, workload):
            yield estimate_plan(model, workload, hardware, strategies, how, weight_format, budget)


def _decodings(model: ModelProfile, workload: Workload) -> list[VAEMemoryMode]:
    """From the fastest to the smallest."""
    rows = workload.height // model.vae.spatial_compression_ratio
    strips = [VAEMemoryMode(n) for n in _STRIPS if n <= rows]
    return strips + [replace(how, offload=True) for how in strips if how.strips > 1]


def _nearest(
    model: ModelProfile, workload: Workload, hardware: Hardware, budget: int, weight_format: WeightFormat
) -> str:
    """Half of guidance at a time, fewer frames, or a smaller size of the same shape, that would fit."""

    def fits(other: Workload) -> bool:
        return any(
            estimate_plan(model, other, hardware, STRATEGIES[-1], how, weight_format, budget).fits
            for how in _decodings(model, other)[-1:]
        )

    if workload.batch_size > 1 and fits(replace(workload, batch_size=1, calls_per_step=2)):
        return "; it fits with sequential_guidance"
    step = geometry.FRAME_RATIO
    for num_frames in range(workload.num_frames - step, 0, -step):
        if fits(replace(workload, num_frames=num_frames, window_frames=min(workload.window_frames, num_frames))):
            return f"; the nearest that fits is num_frames={num_frames}"
    if model.transformer.use_learned_positional_embeddings:
        return ", and this model makes no other size"
    multiple = model.vae.spatial_compression_ratio * model.transformer.patch_size
    for tenths in range(9, 0, -1):
        sides = workload.height, workload.width
        height, width = (max(side * tenths // 10 // multiple, 1) * multiple for side in sides)
        if fits(replace(workload, height=height, width=width)):
            return f"; the nearest that fits is height={height}, width={width}"
    return "; no size fits"


def parse_memory(text: str | int) -> MemoryBudget:
    """`auto`, `speed`, `low`, or a size such as 12GB or 800MB; a number is one already, of bytes.

    Raises:
        UserError: something else.
    """
    if text in ("auto", "speed", "low"):
        return text
    size = text
    if isinstance(text, str):
        found = re.fullmatch(r"(\d*\.?\d+)\s*([gm])(i?b)?", text.strip().lower())
        size = 0 if found is None else int(float(found[1]) * {"g": 2**30, "m": 2**20}[found[2]])
    if not isinstance(size, int) or size <= 0:
        raise UserError(f"memory={text!r} must be auto, speed, low, or a size such as 12GB or 800MB")
    return size


def format_gib(num_bytes: int) -> str:
    """In GiB, as cards are sold; of less than one, in MiB."""
    return f"{num_bytes / 2**30:.1f} GB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.0f} MB"


def _duration(seconds: float | int) -> str:
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _size(workload: Workload) -> str:
    return f"{workload.num_frames} frames of {workload.width}x{workload.height}"
