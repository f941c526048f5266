"""`cogvideox doctor`: what this machine has, what is missing, and whether a video comes out in a few seconds."""

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

from cogvideox.cli.arguments import Parser
from cogvideox.cli.dependencies import PURPOSES, libraries
from cogvideox.errors import UserError
from cogvideox.pretrained.model_spec import WEIGHT_STEMS, read_spec, shipped_models, weights_file
from cogvideox.pretrained.offload.hardware import main_memory
from cogvideox.version import __version__

PYTHON = (3, 11)
STEPS = 8
"""Of the generation that is timed: of the shipped model, on a CPU, a matter of seconds."""


@dataclass
class Finding:
    """One thing that was looked at: a line for people, facts for machines, and what is wrong with it, if anything."""

    line: str
    facts: dict[str, Any] = field(default_factory=dict)
    problem: str | None = None


def run(arguments: list[str]) -> None:
    """Looks at everything, prints it, and raises if something that is needed is not there."""
    options = parser().parse(arguments)
    findings: dict[str, Finding] = {}

    def show(name: str, check: Callable[[], Finding]) -> bool:
        findings[name] = finding = _checked(check)
        if not options.json:
            print(f"{name:<12}{finding.line}", flush=True)
        return finding.problem is None

    show("cogvideox", lambda: Finding(f"{__version__}, in {_home()}", {"version": __version__, "path": str(_home())}))
    show("python", _python)
    show("processor", _processor)
    show("memory", _memory)
    show("disk", _disk)
    show("libraries", _libraries)
    has_torch = show("torch", _torch)
    if has_torch:
        show("devices", _devices)
    can_write = show("video", _video)
    has_model = show("model", _model)
    if has_torch and can_write and has_model and options.generation:
        show("generation", _generation)

    problems = [finding.problem for finding in findings.values() if finding.problem is not None]
    if options.json:
        report = {name: finding.facts for name, finding in findings.items()}
        print(json.dumps({"ok": not problems, "problems": problems, **report, "optional": _optional()}, indent=2))
    else:
        _print_optional()
    if problems:
        raise UserError("not all that is needed is here: " + "; ".join(problems))
    if not options.json:
        print("\nAll that is needed is here.")


def parser() -> Parser:
    """The flags of the verb."""
    p = Parser("doctor", "", "Look at this machine and this installation, and time a small generation.")
    p.add_argument("--json", action="store_true", help="print the findings as JSON")
    on_or_off = argparse.BooleanOptionalAction
    p.add_argument("--generation", action=on_or_off, default=True, help="time a video of the shipped model")
    return p


def _checked(check: Callable[[], Finding]) -> Finding:
    """A finding even where looking fails: whatever is broken here is what the verb is asked to tell."""
    try:
        return check()
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        return Finding(f"broken: {reason}", {"error": reason}, reason)


def _home() -> Path:
    return Path(__file__).parent.parent


def _python() -> Finding:
    version, system = platform.python_version(), f"{platform.system()} {platform.machine()}"
    facts = {"version": version, "executable": sys.executable, "system": system}
    old = sys.version_info[:2] < PYTHON
    problem = f"Python {version} is older than {'.'.join(map(str, PYTHON))}" if old else None
    return Finding(f"{version} on {system}, {sys.executable}", facts, problem)


def _processor() -> Finding:
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Finding(f"{allowed} cores for this process", {"num_cores": allowed})


def _memory() -> Finding:
    """Of the machine, or of the container around us, which stops a process at a limit of its own."""
    total, free = main_memory()
    return Finding(f"{_gigabytes(total)}, {_gigabytes(free)} free", {"total_bytes": total, "free_bytes": free})


def _disk() -> Finding:
    """Whether a video can be written where the command is called, and how much."""
    here = Path.cwd()
    facts: dict[str, Any] = {"path": str(here), "free_bytes": shutil.disk_usage(here).free}
    try:
        with tempfile.TemporaryFile(dir=here):
            facts["writable"] = True
    except OSError:
        facts["writable"] = False
    line = f"{_gigabytes(facts['free_bytes'])} free in {here}"
    return Finding(line + ("" if facts["writable"] else ", which cannot be written to: say -o elsewhere"), facts)


def _libraries() -> Finding:
    needed = libraries().get("", [])
    short = [library.shortfall for library in needed if not library.fits]
    line = ", ".join(f"{library.name} {library.version or '(missing)'}" for library in needed) or "unknown"
    problem = f"install {', '.join(short)} (`pip install cogvideox` brings all that is needed)" if short else None
    return Finding(line, {library.name: library.version for library in needed}, problem)


def _torch() -> Finding:
    try:
        import torch
    except Exception as error:  # a library of the system that is missing, as well as torch itself
        reason = " ".join(str(error).split())
        return Finding(f"cannot be imported: {reason}", {"error": reason}, f"torch cannot be imported ({reason})")
    cuda = torch.version.cuda or torch.version.hip
    threads = torch.get_num_threads()
    facts = {"version": torch.__version__, "cuda": cuda, "num_threads": threads}
    return Finding(f"{torch.__version__}, {threads} thread{'' if threads == 1 else 's'} on the CPU", facts)


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
        if shutil.which("nvidia-smi"):  # the driver is here: torch was built without CUDA, or for a newer driver
            lines = ["cpu; there is an NVIDIA driver, but this torch cannot use it: install torch for its CUDA version"]
    return Finding("; ".join(lines), {"gpus": gpus})


def _video() -> Finding:
    """A clip is written as H.264 and read again."""
    import numpy as np

    from cogvideox.video import io

    frames = np.linspace(0, 255, 5 * 32 * 48 * 3).astype(np.uint8).reshape(5, 32, 48, 3)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.mp4"
        io.write(path, frames, 8.0)
        again, fps = io.read(path)
    if again.shape != frames.shape or fps != 8.0:
        raise UserError(f"a video of 5 frames was written, and read as {len(again)} at {fps:g} a second")
    return Finding("mp4 (H.264), gif and png are written; a clip was written and read", {"codec": "h264"})


def _model() -> Finding:
    """The shipped models: their settings can be read, and their weights are there, not pointers of Git LFS."""
    models: dict[str, dict[str, Any]] = {}
    for name in shipped_models():
        spec = read_spec(name)
        files = [weights_file(spec.path / name, name) for name in WEIGHT_STEMS]
        size = sum(file.stat().st_size for file in files)
        if size < 100_000:
            raise UserError(f"the weights of the model {name} were not fetched (git lfs pull)")
        models[name] = {"path": str(spec.path), "num_bytes": size}
    if not models:
        raise UserError(f"no model is in {_home() / 'models'}: the installation is incomplete")
    return Finding(
        ", ".join(f"{name} ({m['num_bytes'] / 1e6:.0f} MB)" for name, m in models.items()), {"shipped": models}
    )


def _generation() -> Finding:
    from cogvideox.generation.pipeline import CogVideoX
    from cogvideox.generation.request.builder import complete_request

    start = time.perf_counter()
    pipe = CogVideoX.from_pretrained(shipped_models()[0])
    loaded = time.perf_counter()
    video = pipe.run(complete_request(pipe.spec, None, num_inference_steps=STEPS, seed=0))
    seconds = {"load_seconds": round(loaded - start, 2), "generate_seconds": round(time.perf_counter() - loaded, 2)}
    num_frames, height, width, _ = video.frames.shape
    if video.frames.std() < 1:
        raise UserError(f"the model {shipped_models()[0]} made a video of one colour on {pipe.device}")
    shape = f"{num_frames} frames of {width}x{height} in {STEPS} steps on {pipe.device}"
    took = f"loaded in {seconds['load_seconds']:.1f} s, made in {seconds['generate_seconds']:.1f} s"
    return Finding(
        f"{shape}: {took}", {"model": shipped_models()[0], "device": str(pipe.device), "num_steps": STEPS, **seconds}
    )


def _optional() -> dict[str, Any]:
    report = {}
    for part, wanted in libraries().items():
        if part:
            missing = [library.shortfall for library in wanted if not library.fits]
            report[part] = {
                "purpose": PURPOSES.get(part, ""),
                "installed": not missing,
                "missing": missing,
                "libraries": [asdict(library) for library in wanted],
            }
    return report


def _print_optional() -> None:
    parts = _optional()
    if parts:
        print("\noptional parts")
    for part, facts in parts.items():
        state = "installed" if facts["installed"] else f"not installed ({', '.join(facts['missing'])})"
        print(f"  {part:<10}{facts['purpose']}: {state}")
    if any(not facts["installed"] for facts in parts.values()):
        print("  `pip install 'cogvideox[NAME]'` installs one")


def _gigabytes(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB"
