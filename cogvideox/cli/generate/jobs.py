"""What a command line of `cogvideox generate` asks for, checked as far as it can be before torch is there."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cogvideox import config
from cogvideox.cli.generate.outputs import Output, check_outputs, is_made, name_outputs
from cogvideox.cli.generate.prompt_file import read_prompts
from cogvideox.errors import UserError
from cogvideox.generation.request.builder import prepare, split
from cogvideox.generation.request.provenance import Adapter, adapter
from cogvideox.generation.request.request import Replay, Request
from cogvideox.generation.request.validation import remarks
from cogvideox.pretrained.model_spec import ModelSpec, read_spec
from cogvideox.pretrained.offload.planner import parse_memory
from cogvideox.version import __version__

if TYPE_CHECKING:
    from cogvideox.generation.request.inputs import Inputs

_WORDS = {field.name for field in fields(Request)} - {"prompt", "image", "video"}

# What is told of guidance, by the value that is none of it.
_GUIDANCE: dict[str, Any] = {
    "negative_prompt": "",
    "dynamic_guidance": False,
    "smooth_guidance": False,
    "sequential_guidance": False,
    "guidance_interval": (0.0, 1.0),
}


@dataclass(frozen=True)
class Job:
    """One video to be made. `inputs` are None where they are better read when they are needed, as of many images."""

    request: Request
    inputs: "Inputs | None"


@dataclass(frozen=True)
class Asked:
    """What is to be made, by what."""

    spec: ModelSpec
    todo: list[tuple[Job, Output]]
    loras: tuple[Adapter, ...]
    device: str
    dtype: str
    compile: bool
    memory: int | str
    weights: str
    float8: bool
    seed: int
    """With which the same command makes the same videos."""
    only_plan: bool
    """Whether only the memory plan is wanted."""


def read_jobs(options: dict[str, Any]) -> Asked:
    """The videos that are still to be made by these options, and where they go. Says what is unusual about them.

    Raises:
        UserError: whatever is wrong with the options, the files that they name or the places that they write to.
    """
    options = dict(options)
    prompts, source, sheet = options.pop("prompts"), options.pop("from"), options["sheet"]
    if prompts is not None and options["prompt"] is not None:
        raise UserError("the prompts are those of the file: leave out either PROMPT or --prompts")
    chosen = _chosen(options, source)
    spec = read_spec(chosen.get("model", "toybox"))
    loras = tuple(adapter(text) for text in chosen["lora"]) if "lora" in chosen else chosen.get("loras", ())
    weights, float8 = chosen.get("weights", "exact"), chosen.get("float8", False)
    jobs = list(_of_file(spec, prompts, chosen) if prompts is not None else _of_prompt(spec, chosen))
    requests = [job.request for job in jobs]
    outputs = name_outputs(chosen.get("output"), requests, sheet, many=prompts is not None)
    todo = list(zip(jobs, outputs))
    if prompts is not None:
        made_by = {"model": spec.name, "loras": loras, "weights": weights, "float8": float8}
        todo = [(job, output) for job, output in todo if not is_made(output, job.request, **made_by)]
        if len(todo) < len(jobs):
            say(f"note: {len(jobs) - len(todo)} of {len(jobs)} videos are there already")
    check_outputs([output for _, output in todo], sum(_num_bytes(job.request, sheet) for job, _ in todo))
    _check_sources(requests, [output for _, output in todo])
    machine = chosen.get("device", "auto"), chosen.get("dtype", "auto"), chosen["compile"]
    memory = parse_memory(chosen.get("memory", "auto"))
    for remark in dict.fromkeys(remark for request in requests for remark in remarks(request, spec)):
        say(f"note: {remark}")
    return Asked(spec, todo, loras, *machine, memory, weights, float8, jobs[0].request.seed, chosen["plan"])


def _chosen(options: dict[str, Any], source: Path | None) -> dict[str, Any]:
    """What is given, over what the metadata of an earlier video say; of those, not what the given makes void."""
    given = {name: value for name, value in options.items() if value is not None}
    if source is None:
        return given
    replay = _read_replay(source)
    earlier = {field.name: getattr(replay, field.name) for field in fields(replay)}
    if given.get("guidance_scale") == 1:
        earlier |= _GUIDANCE
    for one, other in (("smooth_guidance", "dynamic_guidance"), ("dynamic_guidance", "smooth_guidance")):
        if given.get(one):
            earlier[other] = False
    if "window" in given:
        earlier["overlap"] = None
    if given.get("extend") or given.get("invert"):
        earlier["strength"] = None
    if given.get("extend") and not replay.extend:
        earlier["num_frames"] = None  # which did not count what is now extended
    return {**earlier, **given}


def _of_prompt(spec: ModelSpec, chosen: dict[str, Any]) -> Iterator[Job]:
    request, inputs = _prepare(spec, chosen.get("prompt"), chosen.get("image"), chosen)
    for part in split(request, chosen["num_videos"]):
        yield Job(part, inputs)


def _of_file(spec: ModelSpec, file: Path, chosen: dict[str, Any]) -> Iterator[Job]:
    """Seeds are not drawn for these, because what is run again would be other videos."""
    for line in read_prompts(file):
        try:
            image = line.image or chosen.get("image")
            request, _ = _prepare(spec, line.prompt, image, {"seed": 0, **chosen})
            for part in split(request, chosen["num_videos"]):
                yield Job(part, None)
        except UserError as error:
            raise UserError(f"line {line.number} of {file}: {error}") from error


def _prepare(spec: ModelSpec, prompt: str | None, image: Any, chosen: dict[str, Any]) -> "tuple[Request, Inputs]":
    words = {name: value for name, value in chosen.items() if name in _WORDS}
    return prepare(spec, prompt, image=image, video=chosen.get("video"), **words)


def _check_sources(requests: list[Request], outputs: list[Output]) -> None:
    """Whether what videos are made from is still there when they are written.

    Raises:
        UserError: a video would be written over it.
    """
    given = [source for request in requests for source in (request.image, request.video) if source is not None]
    sources = {Path(source.path).resolve() for source in given if source.path is not None}
    for output in outputs:
        for path in (output.video, output.sheet):
            if path is not None and path.resolve() in sources:
                raise UserError(f"cannot write {path}: a video is made from it, and it would be lost; give another -o")


def _num_bytes(request: Request, sheet: bool) -> int:
    """What the files of a video may take on the disk: enough for one of noise, which no codec makes small.

    Of bare pixels the video's codecs leave at most half even then, and PNG all. A sheet has at most 64 frames, enlarged
    or shrunk to 320 pixels. The finished latents are a quarter of a byte for every pixel.
    """
    video = request.num_frames * request.height * request.width * 7 // 4
    return video + min(request.num_frames, 64) * 320**2 * 3 * sheet + 2**16


def _read_replay(path: Path) -> Replay:
    replay = config.load(Replay, path)
    if replay.cogvideox != __version__:
        say(f"note: {path} was written by version {replay.cogvideox}, this is {__version__}: frames may differ")
    return replay


def say(text: str) -> None:
    print(f"cogvideox: {text}", file=sys.stderr)
