"""`cogvideox generate "PROMPT"`: a video of a sentence, beside it the JSON from which it can be made again."""

import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cogvideox import config, geometry
from cogvideox.bundle.layout import Description, describe
from cogvideox.bundle.memory import read_memory
from cogvideox.cli.generate_options import parser
from cogvideox.cli.outputs import Output, check_outputs, is_made, make_folder, name_outputs
from cogvideox.cli.prompts import read_prompts
from cogvideox.errors import UserError
from cogvideox.generation.loras import Adapter, adapter
from cogvideox.generation.prepare import prepare, split
from cogvideox.generation.request import Replay, Request
from cogvideox.generation.rules import remarks
from cogvideox.generation.source import file_of
from cogvideox.version import __version__

if TYPE_CHECKING:
    from cogvideox.generation.inputs import Inputs
    from cogvideox.parallel.mesh import Ranks

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
class Plan:
    """What is to be made, by what."""

    about: Description
    todo: list[tuple[Job, Output]]
    loras: tuple[Adapter, ...]
    device: str
    dtype: str
    compile: bool
    memory: int | str
    weights: str
    only_told: bool
    """Whether only the memory plan is wanted."""


def run(arguments: list[str]) -> None:
    """Reads the arguments, checks everything that can be checked at once, and only then loads the model."""
    options = vars(parser().parse(arguments))
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        _run_with_others(options)
    elif (plan := _plan(options)).todo:
        _make(plan)


def _run_with_others(options: dict[str, Any]) -> None:
    """As one of the processes that `torchrun` has started: the first decides, tells and writes, all make."""
    from cogvideox.parallel import mesh
    from cogvideox.parallel.guidance import sequence_degree

    first = os.environ.get("RANK") == "0"
    try:
        with mesh.start(device=options["device"] or "auto") as ranks:
            plan = ranks.agree(lambda: _plan(options))
            if plan.todo:
                guided = any(job.request.guidance_scale != 1 for job, _ in plan.todo)
                degree = sequence_degree(ranks.size, plan.about.transformer.num_attention_heads, guided=guided)
                _make(plan, ranks.arranged(degree))
    except UserError:
        if first:
            raise
        raise SystemExit(2) from None  # the first has said it


def _plan(options: dict[str, Any]) -> Plan:
    options = dict(options)
    prompts, source, sheet = options.pop("prompts"), options.pop("from"), options["sheet"]
    chosen = _chosen(options, source)
    about = describe(chosen.get("model", "toybox"))
    loras = tuple(adapter(text) for text in chosen["lora"]) if "lora" in chosen else chosen.get("loras", ())
    jobs = list(_of_file(about, prompts, chosen) if prompts is not None else _of_prompt(about, chosen))
    if prompts is not None:
        make_folder(chosen.get("output"))
    for remark in dict.fromkeys(remark for job in jobs for remark in remarks(job.request, about)):
        _say(f"note: {remark}")

    outputs = name_outputs(chosen.get("output"), [job.request for job in jobs], sheet)
    todo = list(zip(jobs, outputs))
    if prompts is not None:
        todo = [(job, output) for job, output in todo if not is_made(output, job.request, about.name, loras)]
        if len(todo) < len(jobs):
            _say(f"note: {len(jobs) - len(todo)} of {len(jobs)} videos are there already")
    check_outputs([output for _, output in todo], sum(_num_bytes(job.request, sheet) for job, _ in todo))
    machine = chosen.get("device", "auto"), chosen.get("dtype", "auto"), chosen["compile"]
    memory = read_memory(chosen.get("memory", "auto"))
    return Plan(about, todo, loras, *machine, memory, chosen.get("weights", "exact"), chosen["plan"])


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


def _of_prompt(about: Description, chosen: dict[str, Any]) -> Iterator[Job]:
    request, inputs = _prepare(about, chosen.get("prompt"), chosen.get("image"), chosen)
    for part in split(request, chosen["num_videos"]):
        yield Job(part, inputs)


def _of_file(about: Description, file: Path, chosen: dict[str, Any]) -> Iterator[Job]:
    """Seeds are not drawn for these, because what is run again would be other videos."""
    if chosen.get("prompt") is not None:
        raise UserError("the prompts are those of the file: leave out either PROMPT or --prompts")
    for line in read_prompts(file):
        try:
            image = line.image or chosen.get("image")
            request, _ = _prepare(about, line.prompt, image, {"seed": 0, **chosen})
            for part in split(request, chosen["num_videos"]):
                yield Job(part, None)
        except UserError as error:
            raise UserError(f"line {line.number} of {file}: {error}") from error


def _prepare(about: Description, prompt: str | None, image: Any, chosen: dict[str, Any]) -> "tuple[Request, Inputs]":
    words = {name: value for name, value in chosen.items() if name in _WORDS}
    return prepare(about, prompt, image=image, video=chosen.get("video"), **words)


def _make(plan: Plan, ranks: "Ranks | None" = None) -> None:
    # With torch and rich these take seconds to import, so not before all else is known to be right.
    from cogvideox.cli.progress import progress_bar
    from cogvideox.generation.device import choose_device, choose_dtype
    from cogvideox.generation.finished import SUFFIX
    from cogvideox.generation.pipeline import CogVideoX
    from cogvideox.generation.plan import check_texts, plan_for
    from cogvideox.transformer.lora_files import read_lora

    todo, first = plan.todo, ranks is None or ranks.rank == 0
    adapted = [(read_lora(file_of(one.source, "LoRA")), one) for one in plan.loras]
    check_texts([job.request for job, _ in todo], plan.about)
    start = time.perf_counter()
    device = choose_device(plan.device) if ranks is None else ranks.device
    dtype = choose_dtype(plan.dtype, device, plan.about.settings)
    largest = max((job.request for job, _ in todo), key=_num_pixels)
    memory = plan_for(
        plan.about, device, dtype, memory=plan.memory, weights=plan.weights, request=largest, measured=first
    )
    if plan.only_told:
        if first:
            print(f"{memory}\n{memory.table()}")
        return
    if first and not memory.is_small:
        _say(f"plan: {memory}")
    pipe = CogVideoX.from_pretrained(
        plan.about, plan.device, plan.dtype, memory=memory, compile=plan.compile, ranks=ranks
    )
    with _noted(first):
        for lora, one in adapted:
            pipe.load_lora(lora, one.strength, merge=one.merged)
    for number, (job, output) in enumerate(todo, start=1):
        if not first:
            pipe.run(job.request, inputs=job.inputs)
            continue
        kept = output.video.with_suffix(SUFFIX)
        with _kept_latents(kept, job.request), _noted():
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
def _kept_latents(file: Path, request: Request) -> Iterator[None]:
    """Removes the finished latents once the video is written, and says where they are if it is not."""
    try:
        yield
    except BaseException:
        if file.exists():
            again = f"the same command with --seed {request.seed} goes on from there"
            _say(f"note: what was denoised is kept in {file}; {again}")
        raise
    file.unlink(missing_ok=True)


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
        _say(f"note: {path} was written by version {replay.cogvideox}, this is {__version__}: frames may differ")
    return replay


def _summary(output: Output, request: Request, seconds: float) -> str:
    size = f"{geometry.in_words(request.num_frames)} of {request.width}x{request.height}"
    sheet = f", {output.sheet}" if output.sheet is not None else ""
    kilobytes = output.video.stat().st_size / 1000
    return f"{output.video}{sheet}: {size}, {kilobytes:.1f} kB, seed {request.seed}, in {seconds:.1f} s"


@contextmanager
def _noted(aloud: bool = True) -> Iterator[None]:
    """Says what is warned of in here, such as that the format cannot do so many frames a second."""
    with warnings.catch_warnings(record=True) as caught:
        yield
    for warning in caught if aloud else ():
        _say(f"note: {warning.message}")


def _say(text: str) -> None:
    print(f"cogvideox: {text}", file=sys.stderr)
