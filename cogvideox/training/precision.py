"""`run.precision=auto`: the precision of matrix products that is fastest on the device, chosen once for each run."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from cogvideox import config
from cogvideox.errors import UserError
from cogvideox.hardware.cpu_probe import cpu_probe
from cogvideox.parallel.environment import world_size
from cogvideox.parallel.mesh import choose_process_device

Settings = TypeVar("Settings")

MIN_SPEEDUP = 1.5
"""Minimum speed of bfloat16 relative to float32 on a CPU. Mixed precision also casts weights and activations."""


def with_precision(settings: Settings, out: str | Path | None = None, *, resume: bool = False) -> Settings:
    """Return the settings of a run with "auto" replaced by "float32" or "bfloat16".

    A resumed run keeps the recorded precision, so that it continues bit by bit.

    Args:
        settings: a training config, whose field `run` is a `RunSettings`.
        out: the run folder, whose `settings.yaml` records the precision of a run to resume.
    """
    config_with_run: Any = settings
    run = config_with_run.run
    if run.precision != "auto":
        return settings
    precision = _recorded_precision(Path(out)) if resume and out is not None else None
    changed = replace(run, precision=precision or choose_precision(run.device))
    return replace(config_with_run, run=changed)


def choose_precision(device_name: str) -> str:
    """Return the faster precision on a device. With several processes on CPUs it is float32, equally on all ranks."""
    device = choose_process_device(device_name)
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if device.type != "cpu" or world_size() > 1:
        return "float32"
    rates = cpu_probe().rates
    if "bfloat16" not in rates:
        return "float32"
    exact, rounded = rates["float32"], rates["bfloat16"]
    speedup = min(rounded.linear / exact.linear, rounded.convolution / exact.convolution)
    return "bfloat16" if speedup >= MIN_SPEEDUP else "float32"


def _recorded_precision(out: Path) -> str | None:
    with suppress(UserError, AttributeError, KeyError, TypeError):
        precision = config.read_data(out / "settings.yaml")["run"]["precision"]
        return precision if precision in ("float32", "bfloat16") else None
    return None
