"""Choose device, dtype, memory plan and acceleration before any weight is read, then load the model."""

import os
import shutil
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch

from cogvideox.device import choose_device
from cogvideox.dtype import choose_dtype, dtype_name
from cogvideox.errors import UserError
from cogvideox.generation.out_of_memory import none_if_out_of_memory, suggest_setting
from cogvideox.generation.request.request import LoadOptions, Request
from cogvideox.generation.workload import default_workload, largest_workload
from cogvideox.parallel.mesh import Ranks
from cogvideox.pretrained.model_spec import ModelSpec
from cogvideox.pretrained.offload.cpu_dtype import cpu_dtype, slow_dtype_note
from cogvideox.pretrained.offload.hardware import detect_hardware
from cogvideox.pretrained.offload.memory_planner import parse_memory, plan_memory
from cogvideox.pretrained.offload.placement import PlacedModel, place_model, profile_model
from cogvideox.pretrained.offload.plan import MemoryPlan
from cogvideox.text.tokenizer import Tokenizer
from cogvideox.transformer.acceleration.compile_blocks import compile_blocks
from cogvideox.transformer.acceleration.float8 import has_float8_arithmetic, to_float8
from cogvideox.transformer.acceleration.int8 import HAS_INT8_ARITHMETIC, to_int8

RESIDENT_HINT = "load with memory='speed' (--memory speed) and without int8 or fp8"
"""Advice in error messages: settings that keep the transformer's weights on the device and unquantized."""


@dataclass(frozen=True)
class Setup:
    """Device, dtype, memory plan and acceleration of a model.

    Attributes:
        dtype: the networks' compute dtype.
        plan: placement of the weights and slicing of the VAE with which the model fits in memory.
        compile, float8, int8_compute: see `LoadOptions`.
    """

    device: torch.device
    dtype: torch.dtype
    plan: MemoryPlan
    compile: bool = False
    float8: bool = False
    int8_compute: bool = False


def choose_setup(
    spec: ModelSpec,
    options: LoadOptions,
    *,
    requests: Sequence[Request] = (),
    plan: MemoryPlan | None = None,
    ranks: Ranks | None = None,
    benchmark: bool = False,
) -> Setup:
    """Choose the setup of a model and check that it is possible. Reads only the tokenizer and headers of weight files.

    Args:
        requests: requests that must fit in memory; defaults to a video of the model's size.
        plan: an existing `MemoryPlan`, used instead of `options.memory` and `options.weights`.
        ranks: processes that generate each video together; the device is then that of this rank.
        benchmark: measure the speed of the CPU if it is not known yet, to improve the estimated duration.

    Raises:
        UserError: device or dtype not available; no placement fits in memory; `compile`, `float8` or `int8_compute` not
            supported here; a prompt is longer than the model's text length.
    """
    device = choose_device(options.device) if ranks is None else ranks.device
    dtype = _choose_dtype(spec, options.dtype, device, ranks)
    if plan is None:
        hardware = detect_hardware(device, dtype_name(dtype), measured=benchmark)
        workload = largest_workload(requests, spec) if requests else default_workload(spec)
        plan = plan_memory(profile_model(spec), workload, hardware, parse_memory(options.memory), options.weights)
    setup = Setup(device, dtype, plan, options.compile, options.float8, options.int8_compute)
    _check_acceleration(setup)
    check_prompts(requests, spec)
    return setup


def _choose_dtype(spec: ModelSpec, name: str, device: torch.device, ranks: Ranks | None) -> torch.dtype:
    """Return the compute dtype, and warn if it is slow on this CPU."""
    if device.type != "cpu":
        return choose_dtype(name, device, spec.settings.dtype)
    cpu_default = "float32"
    if dtype_name(name) == "auto":
        choose = partial(cpu_dtype, profile_model(spec), default_workload(spec))
        # Measurements differ between ranks, but their dtype must not.
        cpu_default = choose() if ranks is None else ranks.run_on_rank_zero(choose)
    dtype = choose_dtype(name, device, spec.settings.dtype, cpu_default=cpu_default)
    note = slow_dtype_note(dtype_name(dtype))
    if note is not None:
        warnings.warn(note, stacklevel=3)
    return dtype


def load_model(spec: ModelSpec, setup: Setup) -> PlacedModel:
    """Load a model's networks according to a setup.

    Raises:
        UserError: a file is missing or damaged; out of memory.
    """
    model = none_if_out_of_memory(partial(place_model, spec, setup.plan, setup.device, setup.dtype))
    if model is None:
        raise UserError(f"out of memory while loading the model: {suggest_setting(setup.plan)}")
    if setup.float8:
        to_float8(model.transformer)
    if setup.int8_compute:
        to_int8(model.transformer)
    if setup.compile:
        compile_blocks(model.transformer)
    return model


def _check_acceleration(setup: Setup) -> None:
    device = setup.device
    options = {"compile": setup.compile, "float8": setup.float8, "int8_compute": setup.int8_compute}
    for name, enabled in options.items():
        if enabled and not setup.plan.transformer_is_resident:
            raise UserError(
                f"{name} needs unquantized weights that stay on the device: leave it out, or {RESIDENT_HINT}"
            )
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if setup.compile and device.type == "cpu" and shutil.which(compiler) is None:
        raise UserError(
            f"compile needs a C++ compiler on a CPU, and {compiler!r} is not installed: install it or set CXX"
        )
    if setup.int8_compute and (device.type != "cpu" or not HAS_INT8_ARITHMETIC):
        raise UserError(
            "int8_compute needs a CPU with 8-bit dot products (VNNI or AMX), and "
            f"{'this CPU' if device.type == 'cpu' else f'device={str(device)!r}'} has none: leave it out "
            "(--no-int8-compute)"
        )
    if setup.float8 and not has_float8_arithmetic(device):
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"device={str(device)!r}"
        raise UserError(
            "float8 needs a GPU with 8-bit floating-point arithmetic (NVIDIA Ada, Hopper or newer), and "
            f"{name} has none: leave it out (--no-float8)"
        )


def check_prompts(requests: Sequence[Request], spec: ModelSpec) -> None:
    """Raise UserError if a prompt is longer than the model's text length, or is not Unicode text."""
    prompts = {prompt for request in requests for prompt in (request.prompt, request.negative_prompt)}
    if prompts:
        Tokenizer.from_folder(spec.path / "tokenizer").encode(sorted(prompts), spec.settings.text_length)
