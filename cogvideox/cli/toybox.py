"""`cogvideox toybox [FACT=WORD ...]`: renders scenes of the built-in world, captions them, or judges a video."""

import json
from argparse import Namespace
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from cogvideox.atomic_io import atomic_write
from cogvideox.cli.arguments import Parser
from cogvideox.cli.writable import check_writable
from cogvideox.errors import UserError
from cogvideox.toybox.scenes.grammar import FACTS, Scene

NAMES = FACTS["full"]
LEAST_SIDE = 16
"""Pixels below which a toy is no picture, to draw or to judge."""
LEAST_FPS = 0.01
LEAST = {"num_scenes": 1, "seed": 0, "num_frames": 1, "height": LEAST_SIDE, "width": LEAST_SIDE}
FRAMES_JUDGED = 64
"""Of a longer video the first ones are judged."""
JUDGING = {"judge", "prompt"}
CAPTIONING = {"caption", "facts", "num_scenes", "seed", "grammar", "num_frames", "fps"}
"""What has a meaning beside `--judge`, and beside `--caption`; all else would go unheard."""
COLUMNS = 3
"""Scenes in a row of a sheet."""


def run(arguments: list[str]) -> None:
    """Reads the arguments and does the one thing that they ask for."""
    options = parser().parse(arguments)
    if options.judge is not None:
        _refuse_others(options, JUDGING, "--judge")
        judge(options.judge, options.prompt)
        return
    if options.prompt is not None:
        raise UserError("--prompt is what a video is judged by: say which with --judge")
    if options.caption:
        _refuse_others(options, CAPTIONING, "--caption")
    for name, least in LEAST.items():
        if getattr(options, name) < least:
            raise UserError(f"{_flag(name)} {getattr(options, name)} is below the smallest legal value, {least}")
    if not LEAST_FPS <= options.fps <= 1000:
        raise UserError(f"--fps {options.fps:g} is not between {LEAST_FPS:g} and 1000; 16 is usual")

    from cogvideox.toybox.captions.caption import caption_scene
    from cogvideox.toybox.captions.core import STYLES
    from cogvideox.toybox.scenes.sampler import sample_scene

    seeds = range(options.seed, options.seed + options.num_scenes)
    facts: dict[str, Any] = _facts(options.facts)
    seconds = (options.num_frames - 1) / options.fps
    scenes = [sample_scene(seed, options.grammar, seconds=seconds, **facts) for seed in seeds]
    image = options.num_frames == 1
    if options.caption:
        for seed, scene in zip(seeds, scenes):
            for style in STYLES:
                print(f"{seed} {style:<5}  {caption_scene(scene, style, seed, image=image)}")
        return
    captions = [caption_scene(scene, options.style, seed, image=image) for seed, scene in zip(seeds, scenes)]
    size = {"num_frames": options.num_frames, "height": options.height, "width": options.width, "fps": options.fps}
    paths = _paths(options.output, seeds, image=image)
    render(scenes, captions, paths, _sheet(paths) if options.sheet else None, **size)


def render(
    scenes: Sequence[Scene],
    captions: Sequence[str],
    paths: Sequence[Path],
    sheet: Path | None,
    *,
    num_frames: int,
    height: int,
    width: int,
    fps: float,
) -> None:
    """Writes each scene as a video with its caption in a text file beside it, and all of them on one sheet."""
    num_bytes = num_frames * height * width * 3 // 2 + 2**16
    for path in (*paths, *([sheet] if sheet else [])):
        check_writable(path, num_bytes * len(paths))

    import numpy as np

    from cogvideox.records import Video
    from cogvideox.toybox.render.renderer import render_scene
    from cogvideox.video.sheet import ends_and_middle, side_by_side

    shown = []
    for scene, text, path in zip(scenes, captions, paths, strict=True):
        frames = render_scene(scene, num_frames=num_frames, height=height, width=width, fps=fps).numpy()
        Video(frames, fps).save(path)
        with atomic_write(path.with_suffix(".txt")) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
        shown.append(frames[ends_and_middle(num_frames)])
        print(f"{path}: {text}")
    if sheet is not None:
        Video(side_by_side(np.stack(shown), COLUMNS, captions)[None], 1.0).save(sheet)
        print(f"{sheet}: all of them")


def judge(path: Path, prompt: str | None) -> None:
    """Prints, for each fact that the prompt names, what was asked for and what is seen.

    Raises:
        UserError: no prompt given or found beside the video, or one that names nothing of the toybox; no such video,
            or one too small to tell.
    """
    prompt = prompt if prompt is not None else _prompt_of(path)

    import torch

    from cogvideox.records import Video
    from cogvideox.toybox.judge.judge import judge_prompt

    frames = Video.load(path, max_frames=FRAMES_JUDGED).frames
    if min(frames.shape[1:3]) < LEAST_SIDE:
        size = f"{frames.shape[1]}x{frames.shape[2]}"
        raise UserError(f"{path} is {size}: the judge needs {LEAST_SIDE} pixels of height and width or more")
    marks = judge_prompt(torch.from_numpy(frames), prompt)
    if not marks:
        raise UserError(f"{prompt!r} names nothing of the toybox; it can say things like 'a red ball moves left'")
    print(prompt)
    for name, mark in marks.items():
        verdict = "right" if mark.correct else f"wrong: {mark.observed or 'cannot be told'}"
        print(f"  {name:<12} {mark.expected:<12} {verdict}")
    print(f"{sum(mark.correct for mark in marks.values())} of {len(marks)} facts right")


def parser() -> Parser:
    """The flags of the verb."""
    p = Parser(
        "toybox",
        "[FACT=WORD ...]",
        "Render scenes of the built-in world, or show their captions, or judge a video. Facts such as color=red or "
        "motion=left are fixed by name; the rest is drawn by seed.",
    )
    p.add_argument("facts", nargs="*", metavar="FACT=WORD", help=f"of {', '.join(NAMES)}")
    p.add_argument("-o", "--output", type=Path, metavar="FILE|FOLDER", help="where to (default: this folder)")
    p.add_argument("--num-scenes", type=int, default=1, metavar="N", help="with seeds that follow each other")
    p.add_argument("--seed", type=int, default=0, metavar="N", help="the same seed gives the same scene (default: 0)")
    p.add_argument("--grammar", default="core", metavar="core|full", help="one toy, or all that the world can show")
    p.add_argument("--style", default="plain", metavar="short|plain|dense", help="of the caption (default: plain)")
    p.add_argument("--num-frames", type=int, default=17, metavar="N", help="1 for a picture (default: 17)")
    p.add_argument("--height", type=int, default=128, metavar="PIXELS", help="(default: 128)")
    p.add_argument("--width", type=int, default=128, metavar="PIXELS", help="(default: 128)")
    p.add_argument("--fps", type=float, default=16.0, metavar="X", help="frames a second (default: 16)")
    p.add_argument("--sheet", action="store_true", help="also all scenes on one picture, toybox-sheet.png")
    p.add_argument("--caption", action="store_true", help="print captions in every style, and render nothing")
    p.add_argument("--judge", type=Path, metavar="VIDEO", help="mark a video against its prompt, and render nothing")
    p.add_argument("--prompt", metavar="TEXT", help="for --judge (default: that of the JSON or text file beside it)")
    return p


def _paths(output: Path | None, seeds: Sequence[int], *, image: bool) -> list[Path]:
    """`output` itself for one scene, when it is a file's name; else files in it that are named by seed."""
    if output is not None and output.suffix and not output.is_dir():
        from cogvideox.video.io import check_format  # with PyAV, which `--help` has no use for

        check_format(output)
        if len(seeds) == 1:
            return [output]
        raise UserError(
            f"{output} is one file, and {len(seeds)} scenes need a folder: give its name, without an ending"
        )
    return [(output or Path()) / f"toybox-{seed}{'.png' if image else '.mp4'}" for seed in seeds]


def _sheet(paths: Sequence[Path]) -> Path:
    return (
        paths[0].with_name("toybox-sheet.png") if len(paths) > 1 else paths[0].with_name(f"{paths[0].stem}-sheet.png")
    )


def _prompt_of(path: Path) -> str:
    if not path.is_file():
        raise UserError(f"there is no video {path}")
    sidecar = path.with_suffix(".json")
    try:
        return str(json.loads(sidecar.read_text(encoding="utf-8"))["prompt"])
    except (OSError, ValueError, LookupError, TypeError):
        try:
            return path.with_suffix(".txt").read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            raise UserError(f"no prompt lies beside {path}: say with --prompt what it should show") from None


def _facts(texts: Sequence[str]) -> dict[str, str]:
    facts: dict[str, str] = {}
    for text in texts:
        name, equals, word = text.partition("=")
        if not equals or name not in NAMES:
            raise UserError(f"{text!r} fixes no fact; facts are {', '.join(NAMES)}, fixed like color=red")
        if facts.setdefault(name, word) != word:
            raise UserError(f"{name} is fixed twice, as {facts[name]} and as {word}: a scene has one")
    return facts


def _refuse_others(options: Namespace, heard: Collection[str], verb: str) -> None:
    """Refuses options that have a meaning only where scenes are rendered."""
    usual = vars(parser().parse([]))
    for name, value in vars(options).items():
        if name not in heard and value != usual[name]:
            what = value[0] if name == "facts" else _flag(name)
            raise UserError(f"{what} means nothing together with {verb}, which renders no scene: leave one of them out")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
