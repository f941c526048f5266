"""Everything worth knowing of one GPU in ten minutes: does the package run right on it, and how fast.

python benchmarks/gpu_check.py --out build/gpu                                  # the first run
python benchmarks/gpu_check.py --out build/gpu --parts forward-2b generate-2b   # more, into the same report
python benchmarks/gpu_check.py --device cpu --tiny --out build/gpu-tiny         # whether it runs at all

It takes a checkout, PyTorch, and what this package needs to compute: numpy, einops, jaxtyping, safetensors, tokenizers,
PyYAML, filelock, pyarrow and Pillow; pytest for the tests. Without diffusers, nothing is compared with it. Weights are
random, made on the GPU from the official configurations: videos are meaningless, but time, memory and rounding are
those of the real models. Each result is compared with float32: a way whose error is more than 1.1 times that of
diffusers in bfloat16 counts as approximate.

Every part runs in a process of its own, within its own time limit. What fails is recorded and ends nothing else. The
results are one file, gpu-check.json, which grows with each part, and all output is in gpu-check.log. A part that the
file has already is not run again unless `--parts` names it. Where the whole is interrupted, what the part under way had
found stays in a file of its own, PART.json.
"""

import argparse
import json
import multiprocessing
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from gpu_suite.goals import GOALS
from gpu_suite.options import Options
from gpu_suite.parts import PARTS, run_part

ROOT = Path(__file__).parent.parent
RESERVE = 3.0  # seconds at the end
# Imported once for all parts. They leave CUDA alone, which a process could not take over.
PRELOADED = ["gpu_suite.models", "gpu_suite.packed", "gpu_suite.probes"]


def main() -> int:
    options = _arguments().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no part outlives this process
    if options.list:
        print("\n".join(f"{name:14} {part.limit:5.0f} s  {part.what}" for name, part in PARTS.items()))
        return 0
    began, out = time.perf_counter(), options.out
    out.mkdir(parents=True, exist_ok=True)
    report, log = out / "gpu-check.json", out / "gpu-check.log"
    results: dict[str, Any] = json.loads(report.read_text())["parts"] if report.is_file() else {}
    if not options.table:
        log.touch()
        chosen = options.parts or [
            name for name, part in PARTS.items() if part.first and results.get(name, {}).get("status") != "done"
        ]
        settings = Options(options.device, options.tiny, options.rounds, options.steps, options.seed, options.all_ways)
        for name in chosen:
            left = options.seconds - (time.perf_counter() - began) - RESERVE
            limit = min(options.limit or PARTS[name].limit, left)
            results[name] = (
                _run(name, settings, limit, out / f"{name}.json", log) if limit > 1 else {"status": "no time"}
            )
            content = _report(options, results, time.perf_counter() - began)
            partial = report.with_suffix(".partial")  # renamed, so that an interruption leaves the earlier report
            partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            partial.replace(report)
    print(f"\n{_summary(results)}\n{report}")
    return 0 if all(result["status"] == "done" for result in results.values()) else 1


def _run(name: str, options: Options, limit: float, file: Path, log: Path) -> dict[str, Any]:
    """Run a part in a process that is ended at the limit, and return its report."""
    print(f"{name:14} ", end="", flush=True)
    with log.open("a") as lines:
        lines.write(f"\n== {name}: {PARTS[name].what}, at most {limit:.0f} s\n")
    began = time.perf_counter()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    os.environ["PYTHONPATH"] = f"{ROOT / 'benchmarks'}{os.pathsep}{ROOT}"  # for the process that preloads
    process = context.Process(target=run_part, args=(name, options, limit, file, log))
    process.start()
    try:
        process.join(limit)
        code = process.exitcode
    finally:
        _end(process)
    found = json.loads(file.read_text()) if file.is_file() else {}
    file.unlink(missing_ok=True)
    status = "failed" if "failed" in found else {0: "done", None: "out of time"}.get(code, "crashed")
    seconds = round(time.perf_counter() - began, 1)
    print(f"{status}, {seconds} s", flush=True)
    return {"status": status, "seconds": seconds, "limit": round(limit, 1), "exit": code, **found}


def _end(process: Any) -> None:
    """End a process and all that it has started."""
    with suppress(ProcessLookupError):  # there is no such group before it is made, or when nothing is left of it
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()


def _report(options: argparse.Namespace, results: dict[str, Any], seconds: float) -> dict[str, Any]:
    settings = {name: value for name, value in vars(options).items() if isinstance(value, str | int | float)}
    return {
        "benchmark": "gpu check",
        "command": sys.argv,
        "settings": settings,
        "seconds": round(seconds, 1),
        "goals": [goal.result(results) for goal in GOALS],
        "parts": results,
    }


def _summary(results: dict[str, Any]) -> str:
    """A line for each part, with what failed in it, and the goals."""
    lines = []
    for name, result in results.items():
        rows = [(row["task"], way, found) for row in result.get("rows", []) for way, found in row["ways"].items()]
        failed = [f"{way} ({task})" for task, way, found in rows if "failed" in found]
        failed += [figure for figure, found in result.items() if isinstance(found, dict) and "failed" in found]
        which = f"failed: {', '.join(failed)}" if failed else ""
        lines.append(f"{name:14} {result['status']:12} {result.get('seconds', 0):6.1f} s  {which}".rstrip())
    return "\n".join([*lines, "", *(goal.line(results) for goal in GOALS)])


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "build/gpu", help="folder of the report and the log")
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="default: those of a first run that --out lacks")
    parser.add_argument("--seconds", type=float, default=590, help="for all parts together (590)")
    parser.add_argument("--limit", type=float, help="seconds of each part, instead of its own limit")
    parser.add_argument("--device", default="cuda", help="cuda, or cpu with --tiny")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to check that it runs")
    parser.add_argument("--rounds", type=int, default=10, help="timings of each way, if there is time (10)")
    parser.add_argument("--steps", type=int, default=50, help="denoising steps of a generation (50)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and inputs")
    parser.add_argument("--all-ways", action="store_true", help="more ways of a forward pass, which take longer")
    parser.add_argument("--table", action="store_true", help="print what --out has, without measuring")
    parser.add_argument("--list", action="store_true", help="print the parts")
    return parser


if __name__ == "__main__":
    sys.exit(main())
