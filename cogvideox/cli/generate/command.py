"""`cogvideox generate "PROMPT"`: generate videos, each with a JSON sidecar that reproduces it."""

import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cogvideox import geometry
from cogvideox.cli.common.flags import to_flags
from cogvideox.cli.common.messages import print_message, print_note
from cogvideox.cli.generate.jobs import Job, JobBatch, build_jobs
from cogvideox.cli.generate.options import Arguments, parse
from cogvideox.errors import UserError
from cogvideox.formatting import abbreviate
from cogvideox.generation.request.input_sources import checked_path
from cogvideox.parallel.environment import world_size

if TYPE_CHECKING:
    from cogvideox.generation.pipeline import CogVideoX
    from cogvideox.parallel.mesh import Ranks


def run(arguments: list[str]) -> None:
    """Validate the arguments, then load the model and generate."""
    if world_size() > 1:
        _run_on_ranks(arguments)
        return
    parsed = parse(arguments)
    batch = build_jobs(parsed)
    _check_lines(parsed, [*batch.failed_lines, *(_generate(batch) if batch.jobs else ())])


def _check_lines(arguments: Arguments, failed: Sequence[int]) -> None:
    """Raise UserError if lines of the prompt file failed. The videos of the other lines have been generated."""
    if failed:
        lines = abbreviate([str(line) for line in sorted(set(failed))], 10)
        raise UserError(f"these lines of {arguments.command.prompts} failed, for the reasons above: {lines}")


def _run_on_ranks(arguments: Sequence[str]) -> None:
    """Run in several processes started by `torchrun`.

    Rank 0 validates the arguments, all ranks generate each video together, and rank 0 writes the files.
    """
    from cogvideox.parallel import mesh
    from cogvideox.parallel.cfg_parallel import sequence_degree

    parsed = parse(arguments)
    with mesh.init_ranks(device=parsed.load.get("device", "auto")) as ranks:
        batch = ranks.run_on_rank_zero(lambda: build_jobs(parsed))
        failed = list(batch.failed_lines)
        if batch.jobs:
            guided = any(job.request.guided for job in batch.jobs)
            degree = sequence_degree(ranks.size, batch.spec.transformer.num_attention_heads, guided=guided)
            failed += _generate(batch, ranks.regroup(degree))
    _check_lines(parsed, failed)


def _generate(batch: JobBatch, ranks: "Ranks | None" = None) -> list[int]:
    """Generate the videos of a batch and return the lines of the prompt file that failed."""
    # Importing torch and rich takes seconds, so they are imported after the arguments have been checked.
    from cogvideox.generation.pipeline import CogVideoX
    from cogvideox.generation.setup import choose_setup, load_model
    from cogvideox.hardware.cpu_probe import cpu_probe
    from cogvideox.transformer.lora.io import read_lora

    start, is_first_rank = time.perf_counter(), ranks is None or ranks.rank == 0
    jobs, failed = _check_prompts(batch, show=is_first_rank)
    requests = [job.request for job in jobs]
    loras = [(read_lora(checked_path(adapter.source, "LoRA")), adapter) for adapter in batch.loras]
    with _warnings_as_notes(is_first_rank):
        setup = choose_setup(batch.spec, batch.load, requests=requests, ranks=ranks, benchmark=is_first_rank)
    if batch.plan_only:
        if is_first_rank:
            print(f"{setup.plan}\n{setup.plan.table()}")
            if setup.device.type == "cpu":
                print(f"  {'speed':<8}{cpu_probe()}")
        return failed
    if is_first_rank and not setup.plan.is_trivial:
        print_message(f"plan: {setup.plan}")
    pipe = CogVideoX(batch.spec, load_model(batch.spec, setup), setup.device, setup.dtype, ranks)
    with _warnings_as_notes(is_first_rank):
        for lora, adapter in loras:
            pipe.load_lora(lora, adapter.strength, merge=adapter.merged)
    for number, job in enumerate(jobs, start=1):
        if not is_first_rank:
            pipe.run(job.request, inputs=job.inputs)
            continue
        try:
            _run_job(pipe, job, f"{number}/{len(requests)} " if len(requests) > 1 else "", batch.seed)
        except UserError as error:
            if job.line is None or ranks is not None:  # all ranks must run the same jobs
                raise
            print_message(f"line {job.line}: {to_flags(str(error))}")
            failed.append(job.line)
            continue
        print(_summary(job, time.perf_counter() - start), flush=True)
        start = time.perf_counter()
    return failed


def _check_prompts(batch: JobBatch, *, show: bool) -> tuple[list[Job], list[int]]:
    """Return the jobs whose prompts the tokenizer accepts, and the rejected lines of the prompt file.

    Raises:
        UserError: the only prompt, or every prompt of a file, is rejected.
    """
    from cogvideox.generation.setup import check_prompts

    problems: dict[int, UserError] = {}
    with suppress(UserError):
        check_prompts([job.request for job in batch.jobs], batch.spec)
        return batch.jobs, []
    for job in batch.jobs:
        try:
            check_prompts([job.request], batch.spec)
        except UserError as error:
            if job.line is None:
                raise
            problems[job.line] = UserError(f"line {job.line}: {error}")
    jobs = [job for job in batch.jobs if job.line not in problems]
    if not jobs:
        raise next(iter(problems.values()))
    for problem in problems.values() if show else ():
        print_message(to_flags(str(problem)))
    return jobs, list(problems)


def _run_job(pipe: "CogVideoX", job: Job, title: str, seed: int) -> None:
    """Generate a video and write its files."""
    from cogvideox.cli.generate.progress_bar import progress_bar
    from cogvideox.generation.latents_checkpoint import SUFFIX

    latents_file = job.output.video.with_suffix(SUFFIX)
    with _report_latents_on_failure(latents_file, seed), _warnings_as_notes():
        with progress_bar(title) as on_step:
            file = latents_file if pipe.ranks is None else None
            video = pipe.run(job.request, inputs=job.inputs, on_step=on_step, latents_file=file)
        video.save(job.output.video)
        if job.output.sheet is not None:
            replace(video, metadata={}).save(job.output.sheet)


@contextmanager
def _report_latents_on_failure(file: Path, seed: int) -> Iterator[None]:
    """Delete the latents checkpoint after the video is written. On failure, keep it and print its path."""
    try:
        yield
    except BaseException:
        if file.exists():
            print_note(f"the latents are kept in {file}; the same command with --seed {seed} continues from there")
        raise
    file.unlink(missing_ok=True)


@contextmanager
def _warnings_as_notes(show: bool = True) -> Iterator[None]:
    """Print Python warnings as notes, for example about a frame rate that the file format does not support."""
    with warnings.catch_warnings(record=True) as caught:
        yield
    for warning in caught if show else ():
        print_note(to_flags(str(warning.message)))


def _summary(job: Job, seconds: float) -> str:
    request, output = job.request, job.output
    size = f"{geometry.format_frame_count(request.num_frames)} of {request.width}x{request.height}"
    sheet = f", {output.sheet}" if output.sheet is not None else ""
    kilobytes = output.video.stat().st_size / 1000
    return f"{output.video}{sheet}: {size}, {kilobytes:.1f} kB, seed {request.seed}, in {seconds:.1f} s"
