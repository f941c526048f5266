"""`cogvideox doctor`: check the machine and the installation, and benchmark a small generation."""

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cogvideox.cli.common.arguments import Parser
from cogvideox.cli.common.dependencies import PURPOSES, libraries
from cogvideox.errors import UserError
from cogvideox.pretrained.model_spec import WEIGHT_STEMS, read_spec, shipped_models, weights_file
from cogvideox.pretrained.offload.hardware import main_memory
from cogvideox.version import __version__

MIN_PYTHON = (3, 11)
NUM_STEPS = 8
"""Denoising steps of the benchmark, which takes a few seconds on a CPU."""


@dataclass
class Finding:
    """The result of a check.

    Attributes:
        line: human-readable result.
        values: entries for `--json`.
        problem: error message; None if there is no problem.
    """

    line: str
    values: dict[str, Any] = field(default_factory=dict)
    problem: str | None = None


def run(arguments: list[str]) -> None:
    """Run all checks and print their results.

    Raises:
        UserError: a check found a problem.
    """
    options = parser().parse(arguments)
    findings: dict[str, Finding] = {}

    def show(name: str, check: Callable[[], Finding]) -> bool:
        findings[name] = finding = _checked(check)
        if not options.json:
            print(f"{name:<12}{finding.line}", flush=True)
        return finding.problem is None

    show("cogvideox", _package)
    show("python", _python)
    show("processor", _processor)
    show("memory", _memory)
    show("disk", _disk)
    show("libraries", _libraries)
    has_torch = show("torch", _torch)
    if has_torch:
        show("speed", _cpu_speed)
        show("devices", _devices)
    can_write = show("video", _video)
    has_model = show("model", _model)
    if has_torch and can_write and has_model and options.generation:
        show("generation", _generation)

    problems = [finding.problem for finding in findings.values() if finding.problem is not None]
    if options.json:
        report = {name: finding.values for name, finding in findings.items()}
        print(json.dumps({"ok": not problems, "problems": problems, **report, "optional": _extras()}, indent=2))
    else:
        _print_extras()
    if problems:
        raise UserError("problems found: " + "; ".join(problems))
    if not options.json:
        print("\nNo problems found.")


def parser() -> Parser:
    """Return the argument parser."""
    p = Parser("doctor", "", "Check this machine and the installation, and time a small generation.")
    p.add_argument("--json", action="store_true", help="print the results as JSON")
    negatable = argparse.BooleanOptionalAction
    p.add_argument(
        "--generation", action=negatable, default=True, help="generate and time a video with the shipped model"
    )
    return p


def _checked(check: Callable[[], Finding]) -> Finding:
    """Run a check. An exception becomes a reported problem."""
    try:
        return check()
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        return Finding(f"broken: {reason}", {"error": reason}, reason)


def _package_folder() -> Path:
    return Path(__file__).parent.parent


def _package() -> Finding:
    values = {"version": __version__, "path": str(_package_folder())}
    return Finding(f"{__version__}, in {_package_folder()}", values)


def _python() -> Finding:
    version, system = platform.python_version(), f"{platform.system()} {platform.machine()}"
    values = {"version": version, "executable": sys.executable, "system": system}
    is_too_old = sys.version_info[:2] < MIN_PYTHON
    problem = f"Python {version} is older than {'.'.join(map(str, MIN_PYTHON))}" if is_too_old else None
    return Finding(f"{version} on {system}, {sys.executable}", values, problem)


def _processor() -> Finding:
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Finding(f"{allowed} cores for this process", {"num_cores": allowed})


def _memory() -> Finding:
    """Report the main memory of the machine or, if lower, the limit of the container."""
    total, free = main_memory()
    return Finding(f"{_gigabytes(total)}, {_gigabytes(free)} free", {"total_bytes": total, "free_bytes": free})


def _disk() -> Finding:
    """Check that the current folder is writable, and report its free space."""
    folder = Path.cwd()
    values: dict[str, Any] = {"path": str(folder), "free_bytes": shutil.disk_usage(folder).free}
    try:
        with tempfile.TemporaryFile(dir=folder):
            values["writable"] = True
    except OSError:
        values["writable"] = False
    line = f"{_gigabytes(values['free_bytes'])} free in {folder}"
    return Finding(line + ("" if values["writable"] else ", not writable: use -o with a different folder"), values)


def _libraries() -> Finding:
    needed = libraries().get("", [])
    missing = [library.unmet_requirement for library in needed if not library.is_satisfied]
    line = ", ".join(f"{library.name} {library.version or '(missing)'}" for library in needed) or "unknown"
    problem = f"install {', '.join(missing)} (`pip install cogvideox` installs all requirements)" if missing else None
    return Finding(line, {library.name: library.version for library in needed}, problem)


def _torch() -> Finding:
    try:
        import torch
    except Exception as error:  # for example a missing system library
        reason = " ".join(str(error).split())
        return Finding(f"cannot be imported: {reason}", {"error": reason}, f"torch cannot be imported ({reason})")
    cuda = torch.version.cuda or torch.version.hip
    threads = torch.get_num_threads()
    values = {"version": torch.__version__, "cuda": cuda, "num_threads": threads}
    return Finding(f"{torch.__version__}, {threads} thread{'' if threads == 1 else 's'} on the CPU", values)


def _cpu_speed() -> Finding:
    """Report the speed of the CPU by dtype, measured on the first use."""
    from cogvideox.hardware.cpu_probe import cpu_probe

    probe = cpu_probe()
    return Finding(f"{probe.cpu}: {probe}", asdict(probe))


def _devices() -> Finding:
    import torch

    gpus: list[dict[str, Any]] = []
    for i in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(i)
        gpu = {"name": torch.cuda.get_device_name(i), "total_bytes": total, "free_bytes": free}
        gpus.append({"device": f"cuda:{i}", **gpu, "capability": list(torch.cuda.get_device_capability(i))})
    lines = [
        f"{g['device']} {g['name']}, {_gigabytes(g['total_bytes'])}, {_gigabytes(g['free_bytes'])} free" for g in gpus
    ]
    if not gpus:
        lines = ["cpu"]
        if shutil.which("nvidia-smi"):  # torch was built without CUDA or needs a newer driver
            lines = [
                "cpu; an NVIDIA driver is installed, but this torch cannot use it: install torch for its CUDA version"
            ]
    return Finding("; ".join(lines), {"gpus": gpus})


def _video() -> Finding:
    """Write a clip as H.264 and read it back."""
    import numpy as np

    from cogvideox.video import io

    frames = np.linspace(0, 255, 5 * 32 * 48 * 3).astype(np.uint8).reshape(5, 32, 48, 3)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.mp4"
        io.write(path, frames, 8.0)
        frames_read, fps = io.read(path)
    if frames_read.shape != frames.shape or fps != 8.0:
        raise UserError(f"5 frames at 8 fps were written, but {len(frames_read)} frames at {fps:g} fps were read")
    return Finding("mp4 (H.264), gif and png are supported; a clip was written and read", {"codec": "h264"})


def _model() -> Finding:
    """Check the shipped models: settings are readable, and weights are not Git LFS pointers."""
    models: dict[str, dict[str, Any]] = {}
    for name in shipped_models():
        spec = read_spec(name)
        files = [weights_file(spec.path / name, name) for name in WEIGHT_STEMS]
        size = sum(file.stat().st_size for file in files)
        if size < 100_000:
            raise UserError(f"the weights of the model {name} are missing: run `git lfs pull`")
        models[name] = {"path": str(spec.path), "num_bytes": size}
    if not models:
        raise UserError(
            f"no model found in {_package_folder() / 'models'}: the installation is incomplete, so install it again"
        )
    return Finding(
        ", ".join(f"{name} ({m['num_bytes'] / 1e6:.0f} MB)" for name, m in models.items()), {"shipped": models}
    )


def _generation() -> Finding:
    from cogvideox.generation.pipeline import CogVideoX
    from cogvideox.generation.request.builder import complete_request

    start = time.perf_counter()
    pipe = CogVideoX.from_pretrained(shipped_models()[0])
    loaded = time.perf_counter()
    video = pipe.run(complete_request(pipe.spec, None, num_inference_steps=NUM_STEPS, seed=0))
    seconds = {"load_seconds": round(loaded - start, 2), "generate_seconds": round(time.perf_counter() - loaded, 2)}
    num_frames, height, width, _ = video.frames.shape
    if video.frames.std() < 1:
        raise UserError(f"the model {shipped_models()[0]} generated a video of a single color on {pipe.device}")
    shape = f"{num_frames} frames of {width}x{height} in {NUM_STEPS} steps on {pipe.device}"
    times = f"loaded in {seconds['load_seconds']:.1f} s, generated in {seconds['generate_seconds']:.1f} s"
    return Finding(
        f"{shape}: {times}",
        {"model": shipped_models()[0], "device": str(pipe.device), "num_steps": NUM_STEPS, **seconds},
    )


def _extras() -> dict[str, Any]:
    report = {}
    for extra, requirements in libraries().items():
        if extra:
            missing = [library.unmet_requirement for library in requirements if not library.is_satisfied]
            report[extra] = {
                "purpose": PURPOSES.get(extra, ""),
                "installed": not missing,
                "missing": missing,
                "libraries": [asdict(library) for library in requirements],
            }
    return report


def _print_extras() -> None:
    extras = _extras()
    if extras:
        print("\nextras")
    for extra, values in extras.items():
        state = "installed" if values["installed"] else f"not installed ({', '.join(values['missing'])})"
        print(f"  {extra:<10}{values['purpose']}: {state}")
    if any(not values["installed"] for values in extras.values()):
        print("  `pip install 'cogvideox[NAME]'` installs an extra")


def _gigabytes(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB"
