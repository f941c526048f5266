"""End-to-end generation with the shipped model, in this package and diffusers, with the same weights, prompt and seed.

python benchmarks/generation.py                 # under a minute on two cores

`psnr_db` compares the frames of the two videos. The row "command line" measures time and peak memory of a
`cogvideox generate` process, from the start of Python to the written MP4.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import diffusers
import numpy as np
import torch
from common import Report, apply_options, interleave, make_row, option_parser, psnr, write_report
from numpy.typing import NDArray

from cogvideox import CogVideoX
from cogvideox.pretrained.model_spec import ModelSpec, read_spec

SCHEDULERS = {"ddim": "CogVideoXDDIMScheduler", "dpm++": "CogVideoXDPMScheduler"}
MIN_PSNR = 50.0

Frames = NDArray[np.floating]


def load_diffusers(spec: ModelSpec) -> diffusers.CogVideoXPipeline:
    pipe = diffusers.CogVideoXPipeline.from_pretrained(spec.path)
    pipe.set_progress_bar_config(disable=True)
    scheduler = getattr(diffusers, SCHEDULERS[spec.settings.sampler])
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
    return pipe


# The process prints its own peak memory, because the value that the system reports to the parent includes the memory of
# the parent at the fork.
GENERATE = """
import sys
from common import resident_bytes
from cogvideox.cli.main import main
status = main(["generate", *sys.argv[1:]])
print(resident_bytes("VmHWM"))
sys.exit(status)
"""


def run_command(prompt: str, seed: int, num_steps: int) -> dict[str, float]:
    """Measure time and peak memory of a `cogvideox generate` process."""
    with tempfile.TemporaryDirectory() as folder:
        options = ["--seed", str(seed), "--num-inference-steps", str(num_steps), "-o", str(Path(folder) / "video.mp4")]
        command = [sys.executable, "-c", GENERATE, prompt, *options]
        start = time.perf_counter()
        process = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
        seconds = time.perf_counter() - start
    if process.returncode:
        raise SystemExit(f"cogvideox generate failed with status {process.returncode}: {process.stderr[-500:]}")
    return {"seconds": seconds, "peak_bytes": int(process.stdout.splitlines()[-1])}


def main() -> None:
    parser = option_parser(__doc__, "generation", rounds=7, seconds=40)
    parser.add_argument("--model", default="toybox")
    parser.add_argument("--prompt", help="default: the first example prompt of the model")
    options = parser.parse_args()
    apply_options(options)
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
    cogvideox_pipe, diffusers_pipe = CogVideoX.from_pretrained(spec), load_diffusers(spec)

    def generate() -> Frames:
        return cogvideox_pipe.generate(**values, seed=options.seed, output="float").frames

    def generate_with_diffusers() -> Frames:
        return diffusers_pipe(
            **values,
            use_dynamic_cfg=settings.dynamic_guidance,
            max_sequence_length=settings.text_length,
            generator=torch.Generator().manual_seed(options.seed),
            output_type="np",
        ).frames[0]

    similarity = psnr(generate(), generate_with_diffusers())
    if similarity < MIN_PSNR:
        raise SystemExit(f"the PSNR of the two videos is {similarity:.1f} dB, less than {MIN_PSNR}")
    variants = {"diffusers": generate_with_diffusers, "cogvideox": generate}
    times = interleave(variants, options.rounds, seconds=options.seconds)
    size = f"{settings.num_frames}x{settings.height}x{settings.width}"
    task = f"generation, {spec.name}: {size}, {num_steps} steps"
    rows: list[Report] = [make_row(task, times, psnr_db={"cogvideox": similarity})]
    runs = [run_command(prompt, options.seed, num_steps) for _ in range(1 if options.tiny else 3)]
    command_row = make_row(f"{task}, command line", {"cogvideox": [run["seconds"] for run in runs]})
    command_row["variants"]["cogvideox"]["peak_bytes"] = int(max(run["peak_bytes"] for run in runs))
    rows.append(command_row)
    write_report("generation", {**values, "seed": options.seed, "weights": spec.name}, rows, options.out)


if __name__ == "__main__":
    main()
