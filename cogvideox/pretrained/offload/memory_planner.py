"""Memory planning: choose the fastest placement of a model's networks that fits in free memory.

A plan is computed from the model's configs, the size of the request and the free memory, before any weights are loaded.
It does not change the output beyond rounding. Quantization does, and is never chosen automatically.

The text encoder and the transformer are resident, loaded when used (model offload), or loaded block by block with
prefetch (group offload). The VAE is small and always resident, but its activations are large; slicing it into strips of
rows reduces them (`vae.inference.sliced`).
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

from cogvideox import geometry
from cogvideox.errors import UserError
from cogvideox.formatting import format_gib
from cogvideox.pretrained.offload.hardware import DISK_BANDWIDTH, Hardware
from cogvideox.pretrained.offload.plan import MEMORY_MARGIN, MemoryPlan, ModelProfile, Workload
from cogvideox.pretrained.offload.transformer_cost import (
    ITEMSIZE,
    BatchShape,
    OffloadStrategy,
    WeightFootprint,
    WeightFormat,
    text_activations,
    text_flops,
    text_parameters,
    transformer_activations,
    transformer_flops,
    transformer_parameters,
)
from cogvideox.pretrained.offload.vae_cost import (
    UNSLICED,
    VAESlicing,
    prepared_parameters,
    vae_activations,
    vae_flops,
    vae_parameters,
    vae_slicings,
)

MemoryBudget = Literal["auto", "speed", "low"] | int
"""A preference, or a limit in bytes."""

# (text encoder, transformer), fastest first. A text encoder is used once per prompt, so offloading it is cheap.
STRATEGIES: tuple[tuple[OffloadStrategy, OffloadStrategy], ...] = (
    ("resident", "resident"),
    ("group_offload", "resident"),
    ("model_offload", "model_offload"),
    ("group_offload", "model_offload"),
    ("group_offload", "group_offload"),
)
_CPU_OVERHEAD, _CPU_TEXT_OVERHEAD = 32 * 2**20, 8 * 2**20
"""Bytes that torch allocates on a CPU in addition to tensors (JIT kernels, stacks): in total, and for one prompt."""


def plan_memory(
    model: ModelProfile,
    workload: Workload,
    hardware: Hardware,
    memory: MemoryBudget = "auto",
    weight_format: WeightFormat = "exact",
) -> MemoryPlan:
    """Choose the fastest memory plan that fits.

    Args:
        memory: "auto" uses free memory; an integer is a limit in bytes; "speed" keeps everything resident, whether
            or not it fits; "low" minimizes memory.

    Raises:
        UserError: no plan fits. The message states the required memory and the nearest request that fits.
    """
    if memory == "speed":
        return estimate_plan(model, workload, hardware, ("resident", "resident"), UNSLICED, weight_format)
    free = hardware.free_bytes if isinstance(memory, str) else min(memory, hardware.free_bytes)
    budget = int(MEMORY_MARGIN * free)
    smallest: MemoryPlan | None = None
    for plan in _candidates(model, workload, hardware, weight_format, budget):
        if plan.fits and memory != "low":
            return plan
        smallest = plan if smallest is None or plan.peak < smallest.peak else smallest
    assert smallest is not None
    if smallest.fits:
        return replace(smallest, budget=smallest.peak)
    if smallest.peak <= budget:
        needed, available = format_gib(int(smallest.bytes_host / MEMORY_MARGIN)), format_gib(hardware.host_free_bytes)
        raise UserError(f"{model.name} needs {needed} of main memory, but only {available} are free")
    size = f"{workload.num_frames} frames of {workload.width}x{workload.height}"
    available = f"{format_gib(free)} are {'free' if free == hardware.free_bytes else 'allowed'} on {hardware.name}"
    raise UserError(
        f"{model.name} needs {format_gib(int(smallest.peak / MEMORY_MARGIN))} for {size} even with the smallest plan, "
        f"but {available}{_suggest(model, workload, hardware, weight_format, budget)}"
    )


def smallest_plan_fits(
    model: ModelProfile,
    workload: Workload,
    hardware: Hardware,
    weight_format: WeightFormat = "exact",
    budget: int | None = None,
) -> bool:
    """Return whether the plan with the least device memory fits; then `plan_memory` finds a plan."""
    slicing = _vae_slicings(model, workload)[-1]
    return estimate_plan(model, workload, hardware, STRATEGIES[-1], slicing, weight_format, budget).fits


def replan_vae(model: ModelProfile, workload: Workload, plan: MemoryPlan) -> MemoryPlan:
    """Choose the slicing of the VAE for a new request on a placed model; the rest of the plan does not change.

    If no slicing fits, the one with the lowest memory is used, because an estimate is no reason to reject a request to
    a loaded model.
    """
    if workload == plan.workload:
        return plan
    strategies = (plan.text_encoder, plan.transformer)
    plans = [
        estimate_plan(model, workload, plan.hardware, strategies, slicing, plan.weight_format, plan.budget)
        for slicing in _vae_slicings(model, workload)
    ]
    return next((candidate for candidate in plans if candidate.fits), plans[-1])


def estimate_plan(
    model: ModelProfile,
    workload: Workload,
    hardware: Hardware,
    strategies: tuple[OffloadStrategy, OffloadStrategy],
    vae_slicing: VAESlicing,
    weight_format: WeightFormat = "exact",
    budget: int | None = None,
) -> MemoryPlan:
    """Return the memory plan of one placement, with its estimated memory and time.

    Args:
        strategies: offload strategies of the text encoder and the transformer.
        budget: limit in bytes; None means free memory, minus a margin.
    """
    rates, size, on_cpu = hardware.rates, ITEMSIZE[hardware.dtype], hardware.device_type == "cpu"
    text = WeightFootprint.of(
        text_parameters(model.text_encoder), strategies[0], hardware, weight_format, model.itemsizes["text_encoder"]
    )
    transformer = WeightFootprint.of(
        transformer_parameters(model.transformer),
        strategies[1],
        hardware,
        weight_format,
        model.itemsizes["transformer"],
    )
    vae = vae_parameters(model.vae) * size
    shape, latents, num_input_latents = _shapes(model, workload)
    height, width, steps = shape.height, shape.width, workload.num_inference_steps
    pixels = workload.num_frames * workload.height * workload.width * 3

    decode, decode_host = vae_activations(model.vae, latents, height, width, vae_slicing, decoder=True, on_cpu=on_cpu)
    encode = 0
    if num_input_latents:
        encode, _ = vae_activations(
            model.vae, num_input_latents, height, width, vae_slicing, decoder=False, on_cpu=on_cpu
        )
    if on_cpu:  # kept from the first request on
        vae += size * prepared_parameters(model.vae, height, width, vae_slicing, decoder=True)
        if num_input_latents:
            vae += size * prepared_parameters(model.vae, height, width, vae_slicing, decoder=False)
    overhead, text_overhead, video = (_CPU_OVERHEAD, _CPU_TEXT_OVERHEAD, pixels) if on_cpu else (0, 0, 0)
    idle = overhead + vae + text.idle + transformer.idle

    linear, attention = transformer_flops(model.transformer, shape)
    compute = linear / rates.linear + attention / rates.attention
    from_disk = transformer.location == "disk" and not on_cpu
    transfer = transformer.transferred / (DISK_BANDWIDTH if from_disk else rates.transfer)
    seconds_per_call = compute + transfer if on_cpu else max(compute, transfer)
    encode_prompt = text_flops(model.text_encoder, model.text_length) / rates.linear
    decode_slowdown = 1.0 + 0.02 * (vae_slicing.strips - 1) + 0.5 * vae_slicing.offload
    decode_flops = vae_flops(model.vae, latents, height, width, decoder=True)
    loaded = sum(
        weights.loaded for weights, strategy in zip((text, transformer), strategies) if strategy != "group_offload"
    )
    return MemoryPlan(
        hardware=hardware,
        workload=workload,
        budget=int(MEMORY_MARGIN * hardware.free_bytes) if budget is None else budget,
        text_encoder=strategies[0],
        transformer=strategies[1],
        weight_location=transformer.location if strategies[1] == "group_offload" else text.location,
        weight_format=weight_format,
        vae_slicing=vae_slicing,
        bytes_text=text_overhead
        + vae
        + text.active
        + transformer.idle
        + text_activations(model.text_encoder, model.text_length, hardware.dtype),
        bytes_encode=(idle + encode * size) if num_input_latents else 0,
        bytes_denoise=overhead
        + vae
        + text.idle
        + transformer.active
        + transformer_activations(model.transformer, shape, steps, hardware.dtype),
        bytes_decode=idle + decode * size + video,
        bytes_host=0 if on_cpu else text.host + transformer.host + decode_host * size + pixels,
        seconds_load=loaded / DISK_BANDWIDTH,
        seconds_text=workload.num_prompts * max(encode_prompt, text.transferred / DISK_BANDWIDTH),
        seconds_denoise=steps * workload.calls_per_step * seconds_per_call,
        seconds_decode=decode_slowdown * decode_flops / rates.convolution,
    )


def _shapes(model: ModelProfile, workload: Workload) -> tuple[BatchShape, int, int]:
    """Return the transformer's input shape and the latent frames of the whole video and of an input image or video."""
    frames, height, width = geometry.latent_shape(
        workload.window_frames,
        workload.height,
        workload.width,
        patch_t=model.transformer.patch_size_t or 1,
        ratio=model.vae.spatial_compression_ratio,
    )
    num_input_latents = geometry.latent_frames(workload.num_input_frames) if workload.num_input_frames else 0
    shape = BatchShape(workload.batch_size, frames, height, width, model.text_length)
    return shape, geometry.latent_frames(workload.num_frames), num_input_latents


def _candidates(
    model: ModelProfile, workload: Workload, hardware: Hardware, weight_format: WeightFormat, budget: int
) -> Iterator[MemoryPlan]:
    for strategies in STRATEGIES:
        for slicing in _vae_slicings(model, workload):
            yield estimate_plan(model, workload, hardware, strategies, slicing, weight_format, budget)


def _vae_slicings(model: ModelProfile, workload: Workload) -> list[VAESlicing]:
    """List the possible slicings of the VAE, from the fastest to the one with the lowest memory."""
    return vae_slicings(workload.height // model.vae.spatial_compression_ratio)


def _suggest(
    model: ModelProfile, workload: Workload, hardware: Hardware, weight_format: WeightFormat, budget: int
) -> str:
    """Suggest the smallest change to the request that fits: sequential guidance, fewer frames, or a smaller size."""

    def fits(other: Workload) -> bool:
        return smallest_plan_fits(model, other, hardware, weight_format, budget)

    if workload.batch_size > 1 and fits(replace(workload, batch_size=1, calls_per_step=2)):
        return "; it fits with sequential_guidance"
    step = geometry.FRAME_RATIO
    for num_frames in range(workload.num_frames - step, 0, -step):
        if fits(replace(workload, num_frames=num_frames, window_frames=min(workload.window_frames, num_frames))):
            return f"; it fits with num_frames={num_frames}"
    if model.transformer.use_learned_positional_embeddings:
        return ", and this model supports no other size"
    multiple = model.vae.spatial_compression_ratio * model.transformer.patch_size
    for tenths in range(9, 0, -1):
        sides = workload.height, workload.width
        height, width = (max(side * tenths // 10 // multiple, 1) * multiple for side in sides)
        if fits(replace(workload, height=height, width=width)):
            return f"; it fits with height={height}, width={width}"
    return "; no size fits"


def parse_memory(value: str | int) -> MemoryBudget:
    """Parse `auto`, `speed`, `low`, a size such as 12GB or 800MB (GiB, MiB), or a number of bytes.

    Raises:
        UserError: the value is none of these.
    """
    if value in ("auto", "speed", "low"):
        return value
    size = value
    if isinstance(value, str):
        match = re.fullmatch(r"(\d*\.?\d+)\s*([gm])(i?b)?", value.strip().lower())
        size = 0 if match is None else int(float(match[1]) * {"g": 2**30, "m": 2**20}[match[2]])
    if not isinstance(size, int) or size <= 0:
        raise UserError(f"memory={value!r} must be auto, speed, low, or a size such as 12GB or 800MB")
    return size
