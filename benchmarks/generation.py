"""A whole generation of the shipped model here and in diffusers' CogVideoXPipeline: same weights, prompt and seed.

python benchmarks/generation.py                 # under a minute on two cores

How equal the two videos are is told as the PSNR of their frames in 0..1. "from nothing" is a process of its own, from
the start of Python to the written MP4, with the most memory that it held.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import diffusers
import numpy as np
import torch
from common import Report, arguments, finish, interleave, psnr, row, start
from numpy.typing import NDArray

from cogvideox import CogVideoX
from cogvideox.pretrained.model_spec import ModelSpec, read_spec

SCHEDULERS = {"ddim": "CogVideoXDDIMScheduler", "dpm++": "CogVideoXDPMScheduler"}
LEAST_PSNR = 50.0

Frames = NDArray[np.floating]


def load_theirs(spec: ModelSpec) -> diffusers.CogVideoXPipeline:
    pipe = diffusers.CogVideoXPipeline.from_pretrained(spec.path)
    pipe.set_progress_bar_config(disable=True)
    scheduler = getattr(diffusers, SCHEDULERS[spec.settings.sampler])
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
    return pipe


# The process says itself what it held: what the system tells of a child counts what its parent held when it began.
GENERATE = """
import sys
from common import resident
from cogvideox.cli.main import main
status = main(["generate", *sys.argv[1:]])
print(resident("VmHWM"))
sys.exit(status)
"""


def from_nothing(prompt: str, seed: int, num_steps: int) -> dict[str, float]:
    """One `cogvideox generate`."""
    with tempfile.TemporaryDirectory() as folder:
        options = ["--seed", str(seed), "--num-inference-steps", str(num_steps), "-o", str(Path(folder) / "video.mp4")]
        command = [sys.executable, "-c", GENERATE, prompt, *options]
        began = time.perf_counter()
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
        seconds = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"cogvideox generate ended with status {done.returncode}: {done.stderr[-500:]}")
    return {"seconds": seconds, "peak_bytes": int(done.stdout.splitlines()[-1])}


def main() -> None:
    parser = arguments(__doc__, "generation", rounds=7, seconds=40)
    parser.add_argument("--model", default="toybox")
    parser.add_argument("--prompt", help="default: the model's first example")
    options = parser.parse_args()
    start(options)
    spec = read_spec(options.model)
    settings = spec.settings
    prompt = options.prompt or settings.examples[0]
    num_steps = 2 if options.tiny else settings.num_inference_steps
    values = {
        "prompt": prompt,
        "num_frames": settings.num_frames,
        "height": settings.height,
        "width": settings.width,
        "num_inference_steps": num_steps,
        "guidance_scale": settings.guidance_scale,
    }
    ours, theirs = CogVideoX.from_pretrained(spec), load_theirs(spec)

    def make_ours() -> Frames:
        return ours.generate(**values, seed=options.seed, output="float").frames

    def make_theirs() -> Frames:
        seed = torch.Generator().manual_seed(options.seed)
        return theirs(
            **values,
            use_dynamic_cfg=settings.dynamic_guidance,
            max_sequence_length=settings.text_length,
            generator=seed,
            output_type="np",
        ).frames[0]

    likeness = psnr(make_ours(), make_theirs())
    if likeness < LEAST_PSNR:
        raise SystemExit(f"the two videos are only {likeness:.1f} dB alike, less than {LEAST_PSNR}: no ratio")
    times = interleave({"diffusers": make_theirs, "cogvideox": make_ours}, options.rounds, seconds=options.seconds)
    size = f"{settings.num_frames}x{settings.height}x{settings.width}"
    task = f"generation, {spec.name}: {size}, {num_steps} steps"
    rows: list[Report] = [row(task, times, psnr_db={"cogvideox": likeness})]
    alone = [from_nothing(prompt, options.seed, num_steps) for _ in range(1 if options.tiny else 3)]
    ours_alone = row(f"{task}, from nothing", {"cogvideox": [one["seconds"] for one in alone]})
    ours_alone["ways"]["cogvideox"]["peak_bytes"] = int(max(one["peak_bytes"] for one in alone))
    rows.append(ours_alone)
    finish("generation", {**values, "seed": options.seed, "weights": spec.name}, rows, options.out)


if __name__ == "__main__":
    main()
