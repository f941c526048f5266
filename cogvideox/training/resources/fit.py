"""Whether a training run fits in memory, and the smallest changes with which it fits."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import get_args

from cogvideox.formatting import format_gib
from cogvideox.geometry import FRAME_RATIO
from cogvideox.pretrained.offload.hardware import Hardware
from cogvideox.pretrained.offload.plan import MEMORY_MARGIN
from cogvideox.training.diffusion.config import DiffusionTraining
from cogvideox.training.resources.estimate import FLOAT32, ResourceEstimate, clip_tokens, estimate
from cogvideox.transformer.lora.config import BaseWeights

NUM_RANKS = (2, 4, 8)
"""Numbers of GPUs that are suggested for a run that does not fit on one."""


@dataclass(frozen=True)
class FitVerdict:
    """Whether a run fits.

    Attributes:
        needed, available: memory of each process and of its device, in bytes, including the planner's margin.
        reason: why it does not fit; empty if it fits.
    """

    needed: int
    available: int
    reason: str = ""

    @property
    def fits(self) -> bool:
        return not self.reason


def check_fit(resources: ResourceEstimate, machine: Hardware) -> FitVerdict:
    """Compare the estimated memory of a run with the memory of the machine.

    The model is loaded in float32 in main memory, before it is cast or moved to a GPU.
    """
    loaded = FLOAT32 * resources.parameters
    on_cpu = machine.device_type == "cpu"
    needed = int((max(resources.total, loaded) if on_cpu else resources.total) / MEMORY_MARGIN)
    available = machine.free_bytes
    reasons = []
    if needed > available:
        reasons.append(f"the run needs {format_gib(needed)}, and {format_gib(available)} are free on {machine.name}")
    host = int(loaded / MEMORY_MARGIN)
    if not on_cpu and host > machine.host_free_bytes:
        free = format_gib(machine.host_free_bytes)
        reasons.append(f"loading the model needs {format_gib(host)} of main memory, and {free} are free")
    return FitVerdict(needed, available, "; ".join(reasons))


def suggest_changes(settings: DiffusionTraining, machine: Hardware) -> Iterator[str]:
    """Yield changes of a run on one device, each sufficient to make it fit, as settings or numbers of processes."""

    def fits(run: DiffusionTraining, num_ranks: int = 1) -> bool:
        return _fits(run, machine, num_ranks)

    if settings.checkpointing != "full" and fits(replace(settings, checkpointing="full")):
        yield "checkpointing=full"
    lora = settings.lora
    quantized: list[DiffusionTraining] = []
    if lora is not None and not settings.run.compile and settings.sequence == 1:  # see `DiffusionTraining`
        formats = get_args(BaseWeights)  # from large to small
        smaller = formats[formats.index(lora.base_weights) + 1 :]
        quantized = [replace(settings, lora=replace(lora, base_weights=name)) for name in smaller]
    enough = next(filter(fits, quantized), None)
    if enough is not None:
        yield f"{_quantization(enough)} (changes the result slightly)"
    smaller_moments = replace(settings, optim=replace(settings.optim, moments="8bit"))
    if settings.optim.name == "adamw" and settings.optim.moments != "8bit" and fits(smaller_moments):
        yield "optim.moments=8bit (needs the extra `quant`)"

    shorter = _with_shorter_clips(settings, machine)
    if shorter is not None:
        yield _clip_length(shorter)
    elif enough is None:
        both = (_with_shorter_clips(run, machine) for run in quantized)
        if (run := next((run for run in both if run is not None), None)) is not None:
            yield f"{_quantization(run)} (changes the result slightly) with {_clip_length(run)}"
    is_exact = lora is None or lora.base_weights == "exact"
    is_sharded = settings.optim.name == "adamw" and settings.optim.moments == "float32" and is_exact
    for num_ranks in NUM_RANKS if is_sharded else ():
        if fits(settings, num_ranks):
            row_ranks = max(1, num_ranks // settings.sequence)  # each row is on `sequence` of the ranks
            batch_size = -(-settings.run.batch_size // row_ranks) * row_ranks
            rows = "" if batch_size == settings.run.batch_size else f" with run.batch_size={batch_size}"
            yield f"{num_ranks} such devices (torchrun --nproc-per-node {num_ranks}){rows}"
            return


def _with_shorter_clips(settings: DiffusionTraining, machine: Hardware) -> DiffusionTraining | None:
    """Return settings with the longest clips that fit, and as many of them in a row; None if no length fits."""

    def with_frames(num_frames: int) -> DiffusionTraining:
        shorter = replace(settings, target=replace(settings.target, num_frames=num_frames))
        return replace(shorter, row_tokens=-(-settings.row_tokens * clip_tokens(shorter) // clip_tokens(settings)))

    resources = estimate(settings, machine)
    if resources is None:
        return None
    activations = resources.memory["activations"]
    allowed = MEMORY_MARGIN * machine.free_bytes - (resources.total - activations)
    # Activations are about proportional to the tokens; the longest clips that should fit are checked.
    most_tokens = settings.row_tokens * allowed / max(activations, 1)
    counts = range(settings.target.num_frames - FRAME_RATIO, 0, -FRAME_RATIO)
    runs = [run for run in map(with_frames, counts) if run.row_tokens <= most_tokens]
    return next((run for run in runs[:3] if _fits(run, machine)), None)


def _fits(settings: DiffusionTraining, machine: Hardware, num_ranks: int = 1) -> bool:
    resources = estimate(settings, machine, num_ranks)
    return resources is not None and check_fit(resources, machine).fits


def _quantization(settings: DiffusionTraining) -> str:
    assert settings.lora is not None
    return f"lora.base_weights={settings.lora.base_weights}"


def _clip_length(settings: DiffusionTraining) -> str:
    return f"target.num_frames={settings.target.num_frames} row_tokens={settings.row_tokens}"
