"""Build the jobs of a `cogvideox generate` command, with as much validation as possible before importing torch."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cogvideox.cli.common.flags import to_flags
from cogvideox.cli.common.messages import print_message, print_note
from cogvideox.cli.generate.enhance import Rewrite, prompt_rewriter
from cogvideox.cli.generate.options import Arguments
from cogvideox.cli.generate.outputs import Output, check_not_overwritten, check_outputs, is_complete, name_outputs
from cogvideox.cli.generate.prompt_file import read_prompts
from cogvideox.errors import UserError
from cogvideox.generation.request.builder import build_request, split_seeds
from cogvideox.generation.request.input_sources import AppliedLoRA, parse_lora_argument
from cogvideox.generation.request.request import LoadOptions, Request
from cogvideox.generation.request.sidecar import read_sidecar, repeat_with_changes
from cogvideox.generation.request.validation import silent_changes, training_mismatches
from cogvideox.pretrained.model_spec import ModelSpec, is_shipped, read_spec
from cogvideox.pretrained.offload.memory_planner import parse_memory
from cogvideox.version import __version__

if TYPE_CHECKING:
    from cogvideox.generation.request.inputs import Inputs


@dataclass(frozen=True)
class Job:
    """A video to generate and its output files.

    Attributes:
        inputs: None if loaded when the job runs, to avoid holding all images in memory.
        line: line of the prompt file.
    """

    request: Request
    inputs: "Inputs | None"
    output: Output
    line: int | None = None


@dataclass(frozen=True)
class JobBatch:
    """The jobs of a command and their model.

    Attributes:
        seed: seed that reproduces the command.
        plan_only: whether to print the memory plan without generating.
        failed_lines: lines of the prompt file that cannot be used. The reasons have been printed.
    """

    jobs: list[Job]
    spec: ModelSpec
    load: LoadOptions
    loras: tuple[AppliedLoRA, ...]
    seed: int
    plan_only: bool
    failed_lines: tuple[int, ...] = ()


_PlannedRequest = tuple[Request, "Inputs | None", int | None]
"""A request, its inputs if they have been read, and its line in the prompt file."""


def build_jobs(arguments: Arguments) -> JobBatch:
    """Return the jobs that are not done yet. Prints notes about unusual requests and bad prompts to stderr.

    Raises:
        UserError: invalid option, unreadable input file, or unwritable output.
    """
    command = arguments.command
    if command.prompts is not None and "prompt" in arguments.request:
        raise UserError("PROMPT and --prompts cannot be combined: remove one of them")
    values, load, loras = _with_sidecar(arguments)
    spec = read_spec(load.model)
    if command.lora:
        loras = tuple(map(parse_lora_argument, command.lora))
    from_file = command.prompts is not None
    failed_lines: tuple[int, ...] = ()
    with prompt_rewriter(command) as rewrite:
        if command.prompts is None:
            if values.get("prompt"):
                values = values | {"prompt": rewrite(values["prompt"], values.get("image"))}
            planned = list(_requests_of_prompt(spec, values, command.num_videos))
        else:
            planned, failed_lines = _requests_of_prompt_file(spec, command.prompts, values, command.num_videos, rewrite)
    requests = [request for request, _, _ in planned]
    outputs = name_outputs(command.output, requests, command.sheet, from_file=from_file)
    jobs = [Job(request, inputs, output, line) for (request, inputs, line), output in zip(planned, outputs)]
    model = {"model": spec.name, "loras": loras}
    model |= {name: getattr(load, name) for name in ("weights", "float8", "int8_compute")}
    if from_file and not command.plan:
        jobs = [job for job in jobs if not is_complete(job.output, job.request, model)]
        if len(jobs) < len(requests):
            print_note(f"{len(requests) - len(jobs)} of {len(requests)} videos already exist, skipped")
    inputs = [source for request in requests for source in (request.image, request.video) if source is not None]
    check_outputs([job.output for job in jobs], [job.request for job in jobs], inputs)
    if not command.plan and not command.overwrite:
        check_not_overwritten(outputs, requests, model, from_file=from_file)
    parse_memory(load.memory)
    warnings = (warning for request in requests for warning in training_mismatches(request, spec))
    changes = (note for request, given, _ in planned for note in silent_changes(request, given, spec))
    unknown = [] if loras else [note for request in requests if (note := _unknown_words_note(request.prompt, spec))]
    for warning in dict.fromkeys([*warnings, *changes, *unknown]):
        print_note(to_flags(warning))
    return JobBatch(jobs, spec, load, loras, requests[0].seed, command.plan, failed_lines)


def _unknown_words_note(prompt: str, spec: ModelSpec) -> str | None:
    """Return a note about words that the shipped model has never seen; None for other models."""
    if not is_shipped(spec):
        return None
    from cogvideox.toybox.captions.unknown_words import unknown_words  # imports numpy, which `--help` does not need

    words = unknown_words(prompt)
    if not words:
        return None
    names = " or ".join(f'"{word}"' for word in words[:3])
    return (
        f"the shipped model was trained on captions of toys only, such as {spec.settings.examples[0]!r}; it does not "
        f"know {names}. Other content needs the official weights: --model FOLDER"
    )


def _with_sidecar(arguments: Arguments) -> tuple[dict[str, Any], LoadOptions, tuple[AppliedLoRA, ...]]:
    """Return the options of the `--from` sidecar, overridden by the command's, and the sidecar's LoRAs.

    Without a sidecar, returns the command's options.
    """
    file = arguments.command.sidecar
    if file is None:
        return arguments.request, LoadOptions(**arguments.load), ()
    sidecar = read_sidecar(file)
    if sidecar.cogvideox != __version__:
        print_note(f"{file} was written by version {sidecar.cogvideox}, but this is {__version__}: frames may differ")
    return *repeat_with_changes(sidecar, arguments.request, arguments.load), sidecar.loras


def _requests_of_prompt(spec: ModelSpec, values: dict[str, Any], num_videos: int) -> Iterator[_PlannedRequest]:
    request, inputs = build_request(spec, **{"prompt": None, **values})
    for single in split_seeds(request, num_videos):
        yield single, inputs, None


def _requests_of_prompt_file(
    spec: ModelSpec, file: Path, values: dict[str, Any], num_videos: int, rewrite: Rewrite
) -> tuple[list[_PlannedRequest], tuple[int, ...]]:
    """Return the requests of a prompt file, and the lines that cannot be used. Prints the reasons.

    The default seed is 0, not random, so that repeating the command resumes it.

    Raises:
        UserError: no line can be used. The message reports the first failure.
    """
    planned: list[_PlannedRequest] = []
    failures: dict[int, UserError] = {}
    for line in read_prompts(file):
        options: dict[str, Any] = {"seed": 0, **values, "prompt": line.prompt}
        options["image"] = line.image or values.get("image")
        try:
            if line.problem is not None:
                raise UserError(f"the prompt cannot be used: {line.problem}")
            options["prompt"] = rewrite(line.prompt, options["image"])
            request, _ = build_request(spec, **options)
            planned += [(single, None, line.number) for single in split_seeds(request, num_videos)]
        except UserError as error:
            failures[line.number] = UserError(f"line {line.number} of {file}: {error}")
    if not planned:
        raise next(iter(failures.values()))
    for error in failures.values():
        print_message(to_flags(str(error)))
    return planned, tuple(failures)
