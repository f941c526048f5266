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
from cogvideox.pretrained.offload.hardware import DISK, Machine
from cogvideox.pretrained.offload.transformer_cost import (
    ITEMSIZE,
    Clip,
    Keep,
    Storage,
    Waits,
    Weights,
    text_activations,
    text_flops,
    text_parameters,
    transformer_activations,
    transformer_flops,
    transformer_parameters,
)
from cogvideox.pretrained.offload.vae_cost import Decoding, vae_activations, vae_flops, vae_parameters
from cogvideox.text.config import T5Config
from cogvideox.transformer.config import TransformerConfig
from cogvideox.vae.config import VAEConfig

Placement = Literal["resident", "parts", "streamed"]
Memory = Literal["auto", "speed", "low"] | int
"""What to prefer, or how many bytes the whole may take."""

# From the fastest to the smallest. The text encoder is used once for a text, so that streaming it costs little.
KEEPS: tuple[tuple[Keep, Keep], ...] = (
    ("stays", "stays"),
    ("streamed", "stays"),
    ("turns", "turns"),
    ("streamed", "turns"),
    ("streamed", "streamed"),
)
_STRIPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
_BASE, _BASE_OF_TEXT = 32 * 2**20, 8 * 2**20
"""What torch allocates on a CPU beside tensors: its kernels for the shapes at hand, and stacks. A text is short."""
_MARGIN = 0.94
"""How much of what is free is planned with: allocators round up and leave gaps."""


@dataclass(frozen=True)
class Model:
    """What a plan has to know of a model. `stored`: bytes of a number in its files, by part."""

    name: str
    transformer: TransformerConfig
    vae: VAEConfig
    text: T5Config
    text_length: int
    stored: dict[str, int]


@dataclass(frozen=True)
class Demand:
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
    at_once: int
    batch: int = 2
    calls: int = 1
    num_texts: int = 2
    num_given: int = 0


@dataclass(frozen=True)
class Plan:
    """Where everything lies, and what to expect of it: bytes at the worst moment of each phase, on the device, and
    seconds, which are an estimate. `budget`: bytes of the device that were planned with."""

    machine: Machine
    demand: Demand
    budget: int
    text: Keep
    transformer: Keep
    waits: Waits
    storage: Storage
    vae: Decoding
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
    def placement(self) -> Placement:
        if self.transformer == "streamed":
            return "streamed"
        return "resident" if (self.text, self.transformer) == ("stays", "stays") else "parts"

    @property
    def transformer_stays(self) -> bool:
        """Whether the transformer's weights are those that it computes with, all the time."""
        return self.transformer == "stays" and self.storage == "exact"

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
        if self.machine.kind == "cpu":
            return self.peak <= self.budget
        return self.peak <= self.budget and self.bytes_host <= _MARGIN * self.machine.host_free

    @property
    def is_small(self) -> bool:
        """Whether there is nothing that anybody would want to know before it begins."""
        return self.placement == "resident" and self.storage == "exact" and self.peak < 2**30 and self.seconds < 60

    def __str__(self) -> str:
        """In a sentence."""
        words = {"stays": "{} in memory", "turns": "{} in its turn", "streamed": "{} streamed block by block"}
        if self.placement == "resident":
            where = "everything in memory"
        else:
            parts = [
                words[self.text].format("text encoder"),
                words[self.transformer].format("transformer"),
                "VAE in memory",
            ]
            where = ", ".join(parts)
        if "streamed" in (self.text, self.transformer):
            where += f" (from the {self.waits})"
        form = self.machine.dtype if self.storage == "exact" else f"{self.storage} storage (not exact)"
        strips = "" if self.vae == Decoding() else f", VAE in {self.vae.strips} strips"
        if self.vae.offload:
            strips += f" with what waits {'on disk' if self.machine.kind == 'cpu' else 'in main memory'}"
        free = gigabytes(self.machine.free)
        return (
            f"{where}, {form}{strips}; peak about {gigabytes(self.peak)} of {free} free, "
            f"about {_duration(self.seconds)} on {self.machine.name} (an estimate)"
        )

    def table(self) -> str:
        """Each phase in a line."""
        phases = (
            ("load", None, self.seconds_load),
            ("text", self.bytes_text, self.seconds_text),
            *((("encode", self.bytes_encode, None),) if self.demand.num_given else ()),
            ("denoise", self.bytes_denoise, self.seconds_denoise),
            ("decode", self.bytes_decode, self.seconds_decode),
        )
        return "\n".join(
            f"  {name:<8}{'' if size is None else gigabytes(size):>9}"
            f"{'' if seconds is None else 'about ' + _duration(seconds):>15}"
            for name, size, seconds in phases
        )


def plan(model: Model, demand: Demand, machine: Machine, memory: Memory = "auto", storage: Storage = "exact") -> Plan:
    """The first that fits, from the fastest to the smallest.

    Args:
        memory: "auto" plans with what is free; a number of bytes, with that at most; "speed" keeps everything on the
            device without asking whether it fits; "low" takes the smallest.

    Raises:
        UserError: nothing fits; the sentence has what is needed, and the nearest request that would fit.
    """
    if memory == "speed":
        return estimate(model, demand, machine, ("stays", "stays"), Decoding(), storage)
    free = machine.free if isinstance(memory, str) else min(memory, machine.free)
    budget = int(_MARGIN * free)
    smallest: Plan | None = None
    for one in _all(model, demand, machine, storage, budget):
        if one.fits and memory != "low":
            return one
        smallest = one if smallest is None or one.peak < smallest.peak else smallest
    assert smallest is not None
    if smallest.fits:
        return replace(smallest, budget=smallest.peak)
    if smallest.peak <= budget:
        host = gigabytes(int(smallest.bytes_host / _MARGIN))
        raise UserError(f"{model.name} needs {host} of main memory, and {gigabytes(machine.host_free)} are free")
    there = f"{gigabytes(free)} are {'free' if free == machine.free else 'allowed'} on {machine.name}"
    raise UserError(
        f"{model.name} needs {gigabytes(int(smallest.peak / _MARGIN))} for {_size(demand)} even in its smallest plan, "
        f"and {there}{_nearest(model, demand, machine, budget, storage)}"
    )


def replan(model: Model, demand: Demand, before: Plan) -> Plan:
    """The plan for another request to networks that are placed already: only how the VAE decodes is chosen anew.

    Where nothing fits it is the smallest, for an estimate is no reason to refuse what was loaded for.
    """
    if demand == before.demand:
        return before
    keeps = (before.text, before.transformer)
    plans = [estimate(model, demand, before.machine, keeps, how, before.storage) for how in _decodings(model, demand)]
    plans = [replace(one, budget=before.budget) for one in plans]
    return next((one for one in plans if one.fits), plans[-1])


def estimate(
    model: Model,
    demand: Demand,
    machine: Machine,
    keeps: tuple[Keep, Keep],
    how: Decoding,
    storage: Storage = "exact",
    budget: int | None = None,
) -> Plan:
    """What to expect of one choice; without a budget, that is what is free."""
    rates, size, on_cpu = machine.rates, ITEMSIZE[machine.dtype], machine.kind == "cpu"
    text = Weights.of(text_parameters(model.text), keeps[0], machine, storage, model.stored["text_encoder"])
    net = Weights.of(transformer_parameters(model.transformer), keeps[1], machine, storage, model.stored["transformer"])
    vae = vae_parameters(model.vae) * size
    patch_t, ratio = model.transformer.patch_size_t or 1, model.vae.spatial_compression_ratio
    frames, height, width = geometry.latent_shape(
        demand.at_once, demand.height, demand.width, patch_t=patch_t, ratio=ratio
    )
    latents = geometry.latent_frames(demand.num_frames)
    clip = Clip(demand.batch, frames, height, width, model.text_length)
    steps = demand.num_inference_steps

    pixels = demand.num_frames * demand.height * demand.width * 3
    decoded, decoded_host = vae_activations(model.vae, latents, height, width, how, decoder=True, on_cpu=on_cpu)
    given = geometry.latent_frames(demand.num_given) if demand.num_given else 0
    encoded = 0
    if given:
        encoded, _ = vae_activations(model.vae, given, height, width, how, decoder=False, on_cpu=on_cpu)
    frames_bytes, base, base_of_text = (pixels, _BASE, _BASE_OF_TEXT) if on_cpu else (0, 0, 0)

    linear, attention = transformer_flops(model.transformer, clip)
    call = linear / rates.linear + attention / rates.attention
    coming = net.moved / (DISK if net.waits == "disk" and not on_cpu else rates.transfer)
    per_call = call + coming if on_cpu else max(call, coming)
    per_text = max(text_flops(model.text, model.text_length) / rates.linear, text.moved / DISK)
    overhead = 1.0 + 0.02 * (how.strips - 1) + 0.5 * how.offload
    loads = [w.stored for w in (text, net) if w.keep != "streamed"]
    return Plan(
        machine=machine,
        demand=demand,
        budget=int(_MARGIN * machine.free) if budget is None else budget,
        text=keeps[0],
        transformer=keeps[1],
        waits=net.waits if keeps[1] == "streamed" else text.waits,
        storage=storage,
        vae=how,
        bytes_text=base_of_text
        + vae
        + text.used
        + net.idle
        + text_activations(model.text, model.text_length, machine.dtype),
        bytes_encode=(base + vae + text.idle + net.idle + encoded * size) if given else 0,
        bytes_denoise=base
        + vae
        + text.idle
        + net.used
        + transformer_activations(model.transformer, clip, steps, machine.dtype),
        bytes_decode=base + vae + text.idle + net.idle + decoded * size + frames_bytes,
        bytes_host=(text.host + net.host + decoded_host * size + pixels) if not on_cpu else 0,
        seconds_load=sum(loads) / DISK,
        seconds_text=demand.num_texts * per_text,
        seconds_denoise=steps * demand.calls * per_call,
        seconds_decode=overhead * vae_flops(model.vae, latents, height, width, decoder=True) / rates.convolution,
    )


def _all(model: Model, demand: Demand, machine: Machine, storage: Storage, budget: int) -> Iterator[Plan]:
    for keeps in KEEPS:
        for how in _decodings(model, demand):
            yield estimate(model, demand, machine, keeps, how, storage, budget)


def _decodings(model: Model, demand: Demand) -> list[Decoding]:
    """From the fastest to the smallest."""
    rows = demand.height // model.vae.spatial_compression_ratio
    strips = [Decoding(n) for n in _STRIPS if n <= rows]
    return strips + [replace(how, offload=True) for how in strips if how.strips > 1]


def _nearest(model: Model, demand: Demand, machine: Machine, budget: int, storage: Storage) -> str:
    """Half of guidance at a time, fewer frames, or a smaller size of the same shape, that would fit."""

    def fits(other: Demand) -> bool:
        return any(
            estimate(model, other, machine, KEEPS[-1], how, storage, budget).fits
            for how in _decodings(model, other)[-1:]
        )

    if demand.batch > 1 and fits(replace(demand, batch=1, calls=2)):
        return "; it fits with sequential_guidance"
    step = geometry.FRAME_RATIO
    for num_frames in range(demand.num_frames - step, 0, -step):
        if fits(replace(demand, num_frames=num_frames, at_once=min(demand.at_once, num_frames))):
            return f"; the nearest that fits is num_frames={num_frames}"
    if model.transformer.use_learned_positional_embeddings:
        return ", and this model makes no other size"
    multiple = model.vae.spatial_compression_ratio * model.transformer.patch_size
    for tenths in range(9, 0, -1):
        height, width = (max(side * tenths // 10 // multiple, 1) * multiple for side in (demand.height, demand.width))
        if fits(replace(demand, height=height, width=width)):
            return f"; the nearest that fits is height={height}, width={width}"
    return "; no size fits"


def read_memory(text: str | int) -> Memory:
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


def gigabytes(num_bytes: int) -> str:
    """In GiB, as cards are sold; of less than one, in MiB."""
    return f"{num_bytes / 2**30:.1f} GB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.0f} MB"


def _duration(seconds: float | int) -> str:
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _size(demand: Demand) -> str:
    return f"{demand.num_frames} frames of {demand.width}x{demand.height}"
