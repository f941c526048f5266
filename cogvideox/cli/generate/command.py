"""`cogvideox generate "PROMPT"`: a video of a sentence, beside it the JSON from which it can be made again."""

import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cogvideox import geometry
from cogvideox.cli.generate.jobs import Asked, read_jobs, say
from cogvideox.cli.generate.options import parser
from cogvideox.cli.generate.outputs import Output
from cogvideox.errors import UserError
from cogvideox.generation.request.provenance import file_of
from cogvideox.generation.request.request import Request

if TYPE_CHECKING:
    from cogvideox.parallel.mesh import Ranks


def run(arguments: list[str]) -> None:
    """Reads the arguments, checks everything that can be checked at once, and only then loads the model."""
    options = vars(parser().parse(arguments))
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        _run_with_others(options)
    elif (asked := read_jobs(options)).todo:
        _make(asked)


def _run_with_others(options: dict[str, Any]) -> None:
    """As one of the processes that `torchrun` has started: the first decides, tells and writes, all make."""
    from cogvideox.parallel import mesh
    from cogvideox.parallel.cfg_parallel import sequence_degree

    first = os.environ.get("RANK") == "0"
    try:
        with mesh.init_ranks(device=options["device"] or "auto") as ranks:
            asked = ranks.run_on_rank_zero(lambda: read_jobs(options))
            if asked.todo:
                guided = any(job.request.guidance_scale != 1 for job, _ in asked.todo)
                degree = sequence_degree(ranks.size, asked.spec.transformer.num_attention_heads, guided=guided)
                _make(asked, ranks.regroup(degree))
    except UserError:
        if first:
            raise
        raise SystemExit(2) from None  # the first has said it


def _make(asked: Asked, ranks: "Ranks | None" = None) -> None:
    # With torch and rich these take seconds to import, so not before all else is known to be right.
    from cogvideox.cli.generate.progress_bar import progress_bar
    from cogvideox.device import choose_device, choose_dtype
    from cogvideox.generation.latents_checkpoint import SUFFIX
    from cogvideox.generation.memory import check_texts, plan_for
    from cogvideox.generation.pipeline import CogVideoX
    from cogvideox.generation.sampling.acceleration import check as check_speed
    from cogvideox.transformer.lora.io import read_lora

    todo, first = asked.todo, ranks is None or ranks.rank == 0
    adapted = [(read_lora(file_of(one.source, "LoRA")), one) for one in asked.loras]
    check_texts([job.request for job, _ in todo], asked.spec)
    start = time.perf_counter()
    device = choose_device(asked.device) if ranks is None else ranks.device
    dtype = choose_dtype(asked.dtype, device, asked.spec.settings.dtype)
    largest = max((job.request for job, _ in todo), key=_num_pixels)
    memory = plan_for(
        asked.spec, device, dtype, memory=asked.memory, weights=asked.weights, request=largest, measured=first
    )
    quicker = {"compile": asked.compile, "float8": asked.float8}
    check_speed(device, memory, **quicker)
    if asked.only_plan:
        if first:
            print(f"{memory}\n{memory.table()}")
        return
    if first and not memory.is_small:
        say(f"plan: {memory}")
    pipe = CogVideoX.from_pretrained(asked.spec, asked.device, asked.dtype, memory=memory, ranks=ranks, **quicker)
    with _noted(first):
        for lora, one in adapted:
            pipe.load_lora(lora, one.strength, merge=one.merged)
    for number, (job, output) in enumerate(todo, start=1):
        if not first:
            pipe.run(job.request, inputs=job.inputs)
            continue
        kept = output.video.with_suffix(SUFFIX)
        with _kept_latents(kept, asked.seed), _noted():
            with progress_bar(f"{number}/{len(todo)} " if len(todo) > 1 else "") as on_step:
                finished = kept if ranks is None else None
                video = pipe.run(job.request, inputs=job.inputs, on_step=on_step, finished=finished)
            video.save(output.video)
            if output.sheet is not None:
                replace(video, metadata={}).save(output.sheet)
        print(_summary(output, job.request, time.perf_counter() - start), flush=True)
        start = time.perf_counter()


def _num_pixels(request: Request) -> int:
    """Of what is denoised at once, then of all."""
    at_once = request.num_frames if request.window is None else min(request.window, request.num_frames)
    return request.height * request.width * (1000 * at_once + request.num_frames)


@contextmanager
def _kept_latents(file: Path, seed: int) -> Iterator[None]:
    """Removes the finished latents once the video is written, and says where they are if it is not."""
    try:
        yield
    except BaseException:
        if file.exists():
            again = f"the same command with --seed {seed} goes on from there"
            say(f"note: what was denoised is kept in {file}; {again}")
        raise
    file.unlink(missing_ok=True)


def _summary(output: Output, request: Request, seconds: float) -> str:
    size = f"{geometry.format_frames(request.num_frames)} of {request.width}x{request.height}"
    sheet = f", {output.sheet}" if output.sheet is not None else ""
    kilobytes = output.video.stat().st_size / 1000
    return f"{output.video}{sheet}: {size}, {kilobytes:.1f} kB, seed {request.seed}, in {seconds:.1f} s"


@contextmanager
def _noted(aloud: bool = True) -> Iterator[None]:
    """Says what is warned of in here, such as that the format cannot do so many frames a second."""
    with warnings.catch_warnings(record=True) as caught:
        yield
    for warning in caught if aloud else ():
        say(f"note: {warning.message}")
