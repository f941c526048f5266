"""Benchmarks of the 2B and 5B on one GPU at their real shapes (49x480x720, batch size 2 for guidance), in pieces.

python benchmarks/gpu.py --list
python benchmarks/gpu.py floor modes vae forward-2b --out build/gpu     # each piece ends within --seconds
python benchmarks/gpu.py --out build/gpu                                # the pieces that are not in --out yet
python benchmarks/gpu.py --table --out build/gpu                        # print the reports in --out, and the goals
python benchmarks/gpu.py --device cpu --tiny --out build/gpu-tiny       # check that it runs

It runs from a checkout with PyTorch, einops, jaxtyping, safetensors, tokenizers, PyYAML and diffusers, the reference.
Weights are random, in bfloat16, created on the GPU from the official configs: videos are meaningless, but time, memory
and rounding are those of the real models. Every result is compared to that of diffusers in float32; a way whose error
is more than 1.1 times that of diffusers in bfloat16 counts as approximate.

Each piece writes PIECE.json to --out while it runs. A failure is recorded there and does not stop the piece. Compiled
ways compile block by block in both libraries; as blocks are equal, one is compiled.
"""

import argparse
import json
from pathlib import Path

import torch
import torch._dynamo
from common import ROOT
from gpu_suite.goals import GOALS, Reports
from gpu_suite.pieces import PIECES
from gpu_suite.run import Run, show


def reports_in(folder: Path) -> Reports:
    """The reports in a folder, by piece."""
    files = {piece: folder / f"{piece}.json" for piece in PIECES}
    return {piece: json.loads(file.read_text()) for piece, file in files.items() if file.is_file()}


def table(reports: Reports) -> str:
    """Print every row, and return a summary of the goals."""
    for report in reports.values():
        for row in report["rows"]:
            show(row)
    pieces = [f"{piece} ({report['environment']['date']})" for piece, report in reports.items()]
    return "\n".join([f"pieces: {', '.join(pieces) or 'none'}", *(goal.line(reports) for goal in GOALS)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "pieces", nargs="*", choices=[*PIECES, []], help="default: those without a complete report in --out"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "build/gpu", help="folder of the reports")
    parser.add_argument("--device", default="cuda", help="cuda, or cpu with --tiny")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to check that it runs")
    parser.add_argument("--rounds", type=int, default=10, help="timings of each way (10)")
    parser.add_argument("--seconds", type=float, default=540, help="time limit of a piece (540)")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and inputs")
    parser.add_argument("--max-autotune", action="store_true", help="also compile with max-autotune, which takes long")
    parser.add_argument("--table", action="store_true", help="print the reports in --out without measuring")
    parser.add_argument("--list", action="store_true", help="print the pieces")
    options = parser.parse_args()
    if options.list:
        print("\n".join(PIECES))
        return
    if options.device.startswith("cuda") and not options.table and not torch.cuda.is_available():
        raise SystemExit("there is no CUDA device; --device cpu --tiny runs tiny sizes without one")
    torch.backends.cudnn.allow_tf32 = False  # exact float32
    torch._dynamo.config.recompile_limit = 64  # several models share the code of a block
    complete = {piece for piece, report in reports_in(options.out).items() if report["whole"]}
    for piece in [] if options.table else options.pieces or [piece for piece in PIECES if piece not in complete]:
        values = (options.device, options.tiny, options.rounds, options.seconds, options.seed, options.max_autotune)
        torch._dynamo.reset()  # otherwise shapes from other pieces cause dynamic compilation
        run = Run(piece, options.out, *values)
        print(f"== {piece}", flush=True)
        _, why = run.attempt("the piece", lambda piece=piece, run=run: PIECES[piece](run))
        run.free_memory()
        if why:
            run.note(ended=why)
        run.save(complete=not why)
    print(table(reports_in(options.out)))


if __name__ == "__main__":
    main()
