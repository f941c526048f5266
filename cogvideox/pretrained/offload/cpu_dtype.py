"""The compute dtype that "auto" selects on a CPU: float32, or bfloat16 for large models where it is faster.

The choice depends on the model and on the cached probe of the CPU (`hardware.cpu_probe`), not on the request or free
memory, so that equal commands on a machine have equal results.
"""

from cogvideox.hardware.cpu_probe import cpu_probe
from cogvideox.pretrained.offload.hardware import Hardware, cpu_rates
from cogvideox.pretrained.offload.memory_planner import estimate_plan
from cogvideox.pretrained.offload.plan import ModelProfile, Workload
from cogvideox.pretrained.offload.transformer_cost import transformer_parameters
from cogvideox.pretrained.offload.vae_cost import UNSLICED

MIN_PARAMETERS = 100_000_000
"""Models with a smaller transformer, such as the shipped one, always use float32 and are not probed."""
MIN_SECONDS_SAVED = 10.0
"""Minimum predicted saving for a video of the model's default size."""


def cpu_dtype(model: ModelProfile, workload: Workload) -> str:
    """Return the dtype of "auto" on this CPU.

    bfloat16 requires a transformer of at least `MIN_PARAMETERS`, linear layers at least as fast as in float32, and a
    predicted saving of `MIN_SECONDS_SAVED`.

    Args:
        workload: a video of the model's default size.
    """
    if transformer_parameters(model.transformer).total < MIN_PARAMETERS:
        return "float32"
    probe = cpu_probe()
    if not probe.supports("bfloat16"):
        return "float32"
    seconds = {}
    for dtype in ("float32", "bfloat16"):
        hardware = Hardware("cpu", "CPU", 0, 0, dtype, cpu_rates(dtype, probe))
        seconds[dtype] = estimate_plan(model, workload, hardware, ("resident", "resident"), UNSLICED).seconds
    return "bfloat16" if seconds["float32"] - seconds["bfloat16"] >= MIN_SECONDS_SAVED else "float32"


def slow_dtype_note(dtype: str) -> str | None:
    """Return a note if a 16-bit dtype is slower than float32 on this CPU, otherwise None."""
    if dtype == "float32" or cpu_probe().supports(dtype):
        return None
    return f"{dtype} is slower than float32 on this CPU, which has no fast {dtype} arithmetic: use float32 or auto"
