"""Test and benchmark this package on one GPU in ten minutes.

python benchmarks/gpu_check.py --out build/gpu                                  # the first run
python benchmarks/gpu_check.py --out build/gpu --parts forward-2b generate-2b   # more parts, in the same report
python benchmarks/gpu_check.py --device cpu --tiny --out build/gpu-tiny         # a smoke test without a GPU

It needs a checkout, PyTorch, numpy, einops, jaxtyping, safetensors, tokenizers, PyYAML, filelock, pyarrow and Pillow,
and pytest for the tests. Without diffusers, the comparisons with it are skipped. Weights are random, initialized on the
GPU from the official configs: videos are meaningless, but time, memory and rounding are those of the real models. Each
result is compared with float32: a variant whose error is more than 1.1 times that of diffusers in bfloat16 counts as
approximate.

Every part runs in a separate process with its own time limit. A failure is recorded, and the other parts still run.
All results are in gpu-check.json, which is written after each part, and all output is in gpu-check.log. Parts that are
done are not run again unless `--parts` names them; parts that failed or ran out of time are. After an interruption, the
results of the unfinished part are in PART.json.
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
RESERVE = 3.0  # seconds kept for writing the report
# Imported once for all parts. They do not initialize CUDA, which forked processes could not use.
PRELOADED = ["gpu_suite.models", "gpu_suite.packed", "gpu_suite.probes"]


def main() -> int:
    options = _arguments().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # also ends the running part
    if options.list:
        print("\n".join(f"{name:14} {part.limit:5.0f} s  {part.description}" for name, part in PARTS.items()))
        return 0
    start, out = time.perf_counter(), options.out
    out.mkdir(parents=True, exist_ok=True)
    report, log = out / "gpu-check.json", out / "gpu-check.log"
    results: dict[str, Any] = json.loads(report.read_text())["parts"] if report.is_file() else {}
    if not options.table:
        log.touch()
        names = options.parts or [
            name for name, part in PARTS.items() if part.first and results.get(name, {}).get("status") != "done"
        ]
        settings = Options(
            options.device, options.tiny, options.rounds, options.steps, options.seed, options.all_variants
        )
        for name in names:
            remaining = options.seconds - (time.perf_counter() - start) - RESERVE
            limit = min(options.limit or PARTS[name].limit, remaining)
            results[name] = (
                _run(name, settings, limit, out / f"{name}.json", log) if limit > 1 else {"status": "no time"}
            )
            content = _report(options, results, time.perf_counter() - start)
            partial = report.with_suffix(".partial")  # renamed, so that an interruption keeps the old report
            partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            partial.replace(report)
    print(f"\n{_summary(results)}\n{report}")
    return 0 if all(result["status"] == "done" for result in results.values()) else 1


def _run(name: str, options: Options, limit: float, file: Path, log: Path) -> dict[str, Any]:
    """Run a part in a process that is killed at the time limit, and return its report."""
    print(f"{name:14} ", end="", flush=True)
    with log.open("a") as lines:
        lines.write(f"\n== {name}: {PARTS[name].description}, at most {limit:.0f} s\n")
    start = time.perf_counter()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    os.environ["PYTHONPATH"] = f"{ROOT / 'benchmarks'}{os.pathsep}{ROOT}"  # for the process that preloads
    process = context.Process(target=run_part, args=(name, options, limit, file, log))
    process.start()
    try:
        process.join(limit)
        code = process.exitcode
    finally:
        _kill(process)
    results = json.loads(file.read_text()) if file.is_file() else {}
    file.unlink(missing_ok=True)
    status = "failed" if "failed" in results else {0: "done", None: "out of time"}.get(code, "crashed")
    seconds = round(time.perf_counter() - start, 1)
    print(f"{status}, {seconds} s", flush=True)
    return {"status": status, "seconds": seconds, "limit": round(limit, 1), "exit": code, **results}


def _kill(process: Any) -> None:
    """Kill a process and its child processes."""
    with suppress(ProcessLookupError):  # the process has not created its group yet, or all have ended
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
    """Return a line per part, with its failures, and a line per goal."""
    lines = []
    for name, result in results.items():
        rows = [
            (row["task"], variant, values)
            for row in result.get("rows", [])
            for variant, values in row["variants"].items()
        ]
        failed = [f"{variant} ({task})" for task, variant, values in rows if "failed" in values]
        failed += [figure for figure, values in result.items() if isinstance(values, dict) and "failed" in values]
        failures = f"failed: {', '.join(failed)}" if failed else ""
        lines.append(f"{name:14} {result['status']:12} {result.get('seconds', 0):6.1f} s  {failures}".rstrip())
    return "\n".join([*lines, "", *(goal.line(results) for goal in GOALS)])


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "build/gpu", help="folder for the report and the log")
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="default: standard parts that are not done")
    parser.add_argument("--seconds", type=float, default=590, help="time limit of all parts together (590)")
    parser.add_argument("--limit", type=float, help="time limit of each part in seconds (default: its own limit)")
    parser.add_argument("--device", default="cuda", help="cuda, or cpu with --tiny")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, for a smoke test")
    parser.add_argument("--rounds", type=int, default=10, help="maximum number of timings per variant (10)")
    parser.add_argument("--steps", type=int, default=50, help="denoising steps of a generation (50)")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and inputs")
    parser.add_argument("--all-variants", action="store_true", help="also measure slower variants of a forward pass")
    parser.add_argument("--table", action="store_true", help="print the report in --out without measuring")
    parser.add_argument("--list", action="store_true", help="list the parts")
    return parser


if __name__ == "__main__":
    sys.exit(main())
