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
        reason: why it does not fit, in one sentence; empty if it fits.
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
    reason = ""
    if needed > available:
        reason = f"the run needs {format_gib(needed)}, and {format_gib(available)} are free on {machine.name}"
    elif not on_cpu:
        host = int(loaded / MEMORY_MARGIN)
        if host > machine.host_free_bytes:
            free = format_gib(machine.host_free_bytes)
            reason = f"loading the model needs {format_gib(host)} of main memory, and {free} are free"
    return FitVerdict(needed, available, reason)


def suggest_changes(settings: DiffusionTraining, machine: Hardware) -> Iterator[str]:
    """Yield changes of a run on one device, each sufficient to make it fit, as settings or numbers of processes."""

    def fits(other: DiffusionTraining, num_ranks: int = 1) -> bool:
        resources = estimate(other, machine, num_ranks)
        return resources is not None and check_fit(resources, machine).fits

    if settings.checkpointing != "full" and fits(replace(settings, checkpointing="full")):
        yield "checkpointing=full"
    lora = settings.lora
    if lora is not None and not settings.run.compile and settings.sequence == 1:  # see `DiffusionTraining`
        formats = get_args(BaseWeights)  # from large to small
        smaller = (replace(lora, base_weights=name) for name in formats[formats.index(lora.base_weights) + 1 :])
        enough = next((lora for lora in smaller if fits(replace(settings, lora=lora))), None)
        if enough is not None:
            yield f"lora.base_weights={enough.base_weights} (changes the result slightly)"
    smaller_moments = replace(settings, optim=replace(settings.optim, moments="8bit"))
    if settings.optim.name == "adamw" and settings.optim.moments != "8bit" and fits(smaller_moments):
        yield "optim.moments=8bit (needs the extra `quant`)"

    def with_frames(num_frames: int) -> DiffusionTraining:
        """Return settings with shorter clips and as many of them in a row."""
        target = replace(settings.target, num_frames=num_frames)
        shorter = replace(settings, target=target)
        return replace(shorter, row_tokens=-(-settings.row_tokens * clip_tokens(shorter) // clip_tokens(settings)))

    resources = estimate(settings, machine)
    if resources is not None:
        activations = resources.memory["activations"]
        allowed = MEMORY_MARGIN * machine.free_bytes - (resources.total - activations)
        # Activations are about proportional to the tokens; the longest clips that should fit are checked.
        most_tokens = settings.row_tokens * allowed / max(activations, 1)
        counts = range(settings.target.num_frames - FRAME_RATIO, 0, -FRAME_RATIO)
        runs = [run for run in map(with_frames, counts) if run.row_tokens <= most_tokens]
        if (shorter := next(filter(fits, runs[:3]), None)) is not None:
            yield f"target.num_frames={shorter.target.num_frames} row_tokens={shorter.row_tokens}"
    is_exact = lora is None or lora.base_weights == "exact"
    is_sharded = settings.optim.name == "adamw" and settings.optim.moments == "float32" and is_exact
    for num_ranks in NUM_RANKS if is_sharded else ():
        if fits(settings, num_ranks):
            yield f"{num_ranks} such devices (torchrun --nproc-per-node {num_ranks})"
            return
