"""The parts of `gpu_check.py`, and the function that runs a part in its process. Only that process imports PyTorch."""

import functools
import gc
import importlib
import os
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_suite.options import Options


@dataclass(frozen=True)
class Part:
    """A part: its description, the function that measures it, and its time limit in seconds.

    Attributes:
        first: whether the part runs by default, without `--parts`.
    """

    description: str
    module: str
    function: str
    limit: float
    arguments: tuple[Any, ...] = ()
    first: bool = True


PARTS: dict[str, Part] = {
    "machine": Part("hardware and versions", "probes", "measure_machine", 15),
    "conv3d": Part("the VAE's convolutions in both memory formats", "probes", "measure_conv3d", 20),
    "registration": Part("page-locked memory, and a failed registration", "probes", "measure_registration", 15),
    "buckets": Part("T5's position buckets computed on the device", "probes", "measure_buckets", 10),
    "checkpointing": Part("recomputation and memory of packed rows", "packed", "measure_checkpointing", 20),
    "float8": Part("row-wise float8 products", "probes", "measure_float8", 15),
    "attention": Part("the fastest attention of a 5B and 2B forward", "probes", "measure_attention", 25),
    "tests": Part("tests/gpu", "probes", "measure_tests", 120),
    "lower-bound": Part("matrix products and attention of a forward pass", "models", "measure_lower_bound", 35),
    "vae": Part("VAE decode and encode compared to diffusers", "models", "measure_vae", 75),
    "forward-5b": Part("5B forward compared to diffusers", "models", "measure_forward", 120, ("5b",)),
    "train-2b": Part("2B training step compared to diffusers", "models", "measure_training", 60),
    "compiled": Part("compiled steps on packed rows", "packed", "measure_compiled", 60),
    "modes": Part("errors of all variants at a reduced size", "models", "measure_modes", 300, (), False),
    "forward-2b": Part("2B forward compared to diffusers", "models", "measure_forward", 150, ("2b",), False),
    "generate-2b": Part("2B generation compared to diffusers", "generation", "measure_generation", 300, ("2b",), False),
    "generate-5b": Part("5B generation compared to diffusers", "generation", "measure_generation", 540, ("5b",), False),
}
"""All parts, in the order in which they run."""


def run_part(name: str, options: Options, limit: float, file: Path, log: Path) -> None:
    """Run a part in this process. Output is appended to `log`, and the report is written to `file`."""
    os.setsid()  # so that child processes can be killed with this one
    output = os.open(log, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(output, stream)
    import torch
    import torch._dynamo
    from gpu_suite.run import Run

    gc.freeze()  # so that garbage collection does not scan the imported modules
    torch.backends.cudnn.allow_tf32 = False  # exact float32
    torch._dynamo.config.recompile_limit = 64  # several models share the code of a block
    if options.tiny:
        torch.set_num_threads(1)
        torch.compile = functools.partial(torch.compile, backend="aot_eager")  # generating kernels would take minutes
    part, run = PARTS[name], Run(name, file, limit, options)
    try:
        measure = getattr(importlib.import_module(f"gpu_suite.{part.module}"), part.function)
        measure(run, *part.arguments)
    except Exception as error:
        traceback.print_exc()
        run.note(failed=f"{type(error).__name__}: {str(error)[:300]}")
    run.note(processor_seconds=round(sum(os.times()[:4]), 1))
