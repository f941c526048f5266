"""Everything on one GPU at the real shapes of the 2B and 5B (49x480x720, both halves of guidance), in pieces.

python benchmarks/gpu.py --list
python benchmarks/gpu.py floor modes vae forward-2b --out build/gpu     # each ends within --seconds
python benchmarks/gpu.py --out build/gpu                                # the pieces that --out does not hold yet
python benchmarks/gpu.py --table --out build/gpu                        # the reports there beside the goals
python benchmarks/gpu.py --device cpu --tiny --out build/gpu-tiny       # whether it runs at all

A checkout is enough: PyTorch, einops, jaxtyping, safetensors, tokenizers, PyYAML, and diffusers as the opponent. The
weights are random, in bfloat16, made on the GPU from the real configurations: pictures mean nothing, while time, memory
and rounding are those of the real models. Every way's result is compared with diffusers' in float32; one that is not
as near to it as diffusers' own bfloat16 (within a tenth) counts as approximate in the table.

Each piece writes PIECE.json into --out as it goes. What fails is told there and ends nothing. Compiled means block by
block, in both libraries: the blocks are equal, so that one is compiled.
"""

import argparse
import json
from pathlib import Path

import torch
import torch._dynamo
from common import ROOT
from gpu_goals import GOALS, Reports
from gpu_pieces import PIECES
from gpu_run import Run, show


def reports_in(folder: Path) -> Reports:
    """What pieces have left there."""
    files = {piece: folder / f"{piece}.json" for piece in PIECES}
    return {piece: json.loads(file.read_text()) for piece, file in files.items() if file.is_file()}


def table(reports: Reports) -> str:
    """Every row with a line for each way, then the goals."""
    for report in reports.values():
        for row in report["rows"]:
            show(row)
    pieces = [f"{piece} ({report['environment']['date']})" for piece, report in reports.items()]
    return "\n".join([f"pieces: {', '.join(pieces) or 'none'}", *(goal.line(reports) for goal in GOALS)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pieces", nargs="*", choices=[*PIECES, []], help="default: those that --out does not hold")
    parser.add_argument("--out", type=Path, default=ROOT / "build/gpu", help="a folder for the reports")
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to try it with --tiny")
    parser.add_argument("--tiny", action="store_true", help="sizes that take no time and tell nothing")
    parser.add_argument("--rounds", type=int, default=10, help="each way is timed so often (10)")
    parser.add_argument("--seconds", type=float, default=540, help="budget of a piece (540)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and inputs")
    parser.add_argument("--max-autotune", action="store_true", help="also both forwards so compiled, which takes long")
    parser.add_argument("--table", action="store_true", help="print what --out holds and measure nothing")
    parser.add_argument("--list", action="store_true", help="print the pieces")
    options = parser.parse_args()
    if options.list:
        print("\n".join(PIECES))
        return
    if options.device.startswith("cuda") and not options.table and not torch.cuda.is_available():
        raise SystemExit("there is no CUDA device; --device cpu --tiny tries the pieces without one")
    torch.backends.cudnn.allow_tf32 = False  # float32 means float32
    torch._dynamo.config.recompile_limit = 64  # several models share the code of one block
    held = {piece for piece, report in reports_in(options.out).items() if report["whole"]}
    for piece in [] if options.table else options.pieces or [piece for piece in PIECES if piece not in held]:
        values = (options.device, options.tiny, options.rounds, options.seconds, options.seed, options.max_autotune)
        torch._dynamo.reset()  # or shapes that another piece had before would be compiled for any shape
        run = Run(piece, options.out, *values)
        print(f"== {piece}", flush=True)
        _, why = run.attempt("all of it", lambda piece=piece, run=run: PIECES[piece](run))
        run.tidy()
        if why:
            run.note(ended=why)
        run.save(not why)
    print(table(reports_in(options.out)))


if __name__ == "__main__":
    main()
