"""`cogvideox generate "PROMPT"`: a video of a sentence, beside it the JSON from which it can be made again."""

import argparse
import sys
import time
import warnings
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from cogvideox import config
from cogvideox.bundle.layout import describe, shipped
from cogvideox.cli.arguments import Parser
from cogvideox.cli.outputs import Output, check_outputs, name_outputs
from cogvideox.generation.request import Replay, Request, complete, remarks, split
from cogvideox.version import __version__

_REQUEST = {field.name for field in fields(Request)}


def run(arguments: list[str]) -> None:
    """Reads the arguments, checks everything that can be checked at once, and only then loads the model."""
    options = vars(parser().parse(arguments))
    source: Path | None = options.pop("from")
    replayed = asdict(_read_replay(source)) if source is not None else {}
    if options["guidance_scale"] == 1:  # of the video that is made again, what guidance was told no longer counts
        replayed |= {"negative_prompt": "", "dynamic_guidance": False}
    chosen: dict[str, Any] = {**replayed, **{name: value for name, value in options.items() if value is not None}}

    about = describe(chosen.get("model", "toybox"))
    request = complete(about, chosen.pop("prompt", None), **{k: v for k, v in chosen.items() if k in _REQUEST})
    requests = split(request, chosen["num_videos"])
    for remark in remarks(request, about):
        _say(f"note: {remark}")
    outputs = name_outputs(chosen.get("output"), requests, chosen["sheet"])
    check_outputs(outputs, len(requests) * _num_bytes(request, chosen["sheet"]))

    # With torch and rich these take seconds to import, so not before all else is known to be right.
    from cogvideox.cli.progress import progress_bar
    from cogvideox.generation.pipeline import CogVideoX, check_texts

    check_texts(request, about)
    start = time.perf_counter()
    pipe = CogVideoX.from_pretrained(about, device=chosen.get("device", "auto"), dtype=chosen.get("dtype", "auto"))
    for number, (part, output) in enumerate(zip(requests, outputs), start=1):
        with progress_bar(f"{number}/{len(requests)} " if len(requests) > 1 else "") as on_step:
            video = pipe.run(part, on_step=on_step)
        with warnings.catch_warnings(record=True) as caught:
            video.save(output.video)
            if output.sheet is not None:
                replace(video, metadata={}).save(output.sheet)
        for warning in caught:  # such as that the format cannot do so many frames a second
            _say(f"note: {warning.message}")
        print(_summary(output, part, time.perf_counter() - start))
        start = time.perf_counter()


def parser() -> Parser:
    """The flags of the verb."""
    p = Parser("generate", '"PROMPT"', "Make a video of a sentence. What is not given is the model's own default.")
    p.add_argument("prompt", nargs="?", metavar="PROMPT", help="what the video shows; without it, the model's example")
    p.add_argument("-o", "--output", type=Path, metavar="FILE", help="x.mp4, x.gif or x.png; with an x.json beside it")
    p.add_argument("--sheet", action="store_true", help="also save all frames on one picture, x-sheet.png")
    p.add_argument("--from", type=Path, metavar="X.JSON", help="make that video again; other options change it")
    models = [*shipped(), "the path of a folder in the diffusers layout"]
    p.add_argument("--model", metavar="NAME|PATH", help=" or ".join(models))
    p.add_argument("--num-frames", type=int, metavar="N", help="4k+1, such as 9 or 49")
    p.add_argument("--height", type=int, metavar="PIXELS", help="a multiple of 16")
    p.add_argument("--width", type=int, metavar="PIXELS", help="a multiple of 16")
    p.add_argument("--fps", type=float, metavar="X", help="frames a second; does not change the frames")
    p.add_argument("--num-inference-steps", type=int, metavar="N", help="denoising steps: more is slower and finer")
    p.add_argument("--guidance-scale", type=float, metavar="X", help="how closely to follow the prompt; 1 is unguided")
    on_or_off = argparse.BooleanOptionalAction
    p.add_argument("--dynamic-guidance", action=on_or_off, help="change the guidance over the steps")
    p.add_argument("--negative-prompt", metavar="TEXT", help="what guidance leads away from")
    p.add_argument("--sampler", metavar="ddim|dpm++", help="deterministic, or stochastic of second order")
    p.add_argument("--seed", type=int, metavar="N", help="the same seed gives the same video; drawn when not given")
    p.add_argument("--num-videos", type=_count, default=1, metavar="N", help="with seeds that follow each other")
    p.add_argument("--device", metavar="auto|cpu|cuda", help="auto: CUDA where there is a GPU")
    p.add_argument("--dtype", metavar="auto|float32|bfloat16|float16", help="auto: float32 on a CPU")
    return p


def _num_bytes(request: Request, sheet: bool) -> int:
    """What the files of a video may take on the disk: enough for one of noise, which no codec makes small.

    Of bare pixels the video's codecs leave at most half even then, and PNG all. A sheet has at most 64 frames, enlarged
    or shrunk to 320 pixels.
    """
    video = request.num_frames * request.height * request.width * 3 // 2
    return video + min(request.num_frames, 64) * 320**2 * 3 * sheet + 2**16


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"{count} must be 1 or more")
    return count


def _read_replay(path: Path) -> Replay:
    replay = config.load(Replay, path)
    if replay.cogvideox != __version__:
        _say(f"note: {path} was written by version {replay.cogvideox}, this is {__version__}: frames may differ")
    return replay


def _summary(output: Output, request: Request, seconds: float) -> str:
    size = f"{request.num_frames} frames of {request.width}x{request.height}"
    sheet = f", {output.sheet}" if output.sheet is not None else ""
    kilobytes = output.video.stat().st_size / 1000
    return f"{output.video}{sheet}: {size}, {kilobytes:.1f} kB, seed {request.seed}, in {seconds:.1f} s"


def _say(text: str) -> None:
    print(f"cogvideox: {text}", file=sys.stderr)
