"""`cogvideox toybox [FACT=WORD ...]`: render scenes of the built-in toy world, caption them, or judge a video."""

from argparse import Namespace
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from cogvideox.atomic_io import atomic_write
from cogvideox.cli.common.arguments import Parser
from cogvideox.cli.common.writable import check_writable
from cogvideox.errors import UserError
from cogvideox.toybox.scenes.grammar import FACTS, Scene
from cogvideox.untrusted.files import parse_json, read_text

FACT_NAMES = FACTS["full"]
MIN_SIDE = 16
"""Minimum height and width in pixels at which a toy can be recognized."""
MIN_FPS, MAX_FPS = 0.01, 1000.0
MINIMUM = {"num_scenes": 1, "seed": 0, "num_frames": 1, "height": MIN_SIDE, "width": MIN_SIDE}
MAX_JUDGED_FRAMES = 64
"""Maximum number of frames that are judged, from the start of the video."""
JUDGE_OPTIONS = {"judge", "prompt"}
CAPTION_OPTIONS = {"caption", "facts", "num_scenes", "seed", "grammar", "num_frames", "fps"}
"""Options allowed with `--judge` and with `--caption`."""
SHEET_COLUMNS = 3


def run(arguments: list[str]) -> None:
    """Render scenes, print captions or judge a video, depending on the options."""
    options = parser().parse(arguments)
    if options.judge is not None:
        _reject_options_except(options, JUDGE_OPTIONS, "--judge")
        judge(options.judge, options.prompt)
        return
    if options.prompt is not None:
        raise UserError("--prompt needs a video to judge: add --judge VIDEO")
    if options.caption:
        _reject_options_except(options, CAPTION_OPTIONS, "--caption")
    for name, minimum in MINIMUM.items():
        if getattr(options, name) < minimum:
            raise UserError(f"{_flag(name)} {getattr(options, name)} must be {minimum} or more")
    if not MIN_FPS <= options.fps <= MAX_FPS:
        raise UserError(f"--fps {options.fps:g} must be from {MIN_FPS:g} to {MAX_FPS:g}; a typical value is 16")

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
    """Write each scene as a video with a caption file, and optionally a contact sheet of all scenes."""
    num_bytes = num_frames * height * width * 3 // 2 + 2**16
    for path in (*paths, *([sheet] if sheet else [])):
        check_writable(path, num_bytes * len(paths))

    import numpy as np

    from cogvideox.records import Video
    from cogvideox.toybox.render.renderer import render_scene
    from cogvideox.video.sheet import ends_and_middle, side_by_side

    cells = []
    for scene, caption, path in zip(scenes, captions, paths, strict=True):
        frames = render_scene(scene, num_frames=num_frames, height=height, width=width, fps=fps).numpy()
        Video(frames, fps).save(path)
        with atomic_write(path.with_suffix(".txt")) as temporary:
            temporary.write_text(caption + "\n", encoding="utf-8")
        cells.append(frames[ends_and_middle(num_frames)])
        print(f"{path}: {caption}")
    if sheet is not None:
        Video(side_by_side(np.stack(cells), SHEET_COLUMNS, captions)[None], 1.0).save(sheet)
        print(f"{sheet}: all scenes")


def judge(path: Path, prompt: str | None) -> None:
    """Print the value of each fact of the prompt, in the prompt and in the video.

    Args:
        prompt: defaults to the prompt in the JSON or text file next to the video.

    Raises:
        UserError: there is no prompt, or it states no facts of the toy world; the video does not exist or is too small.
    """
    prompt = prompt if prompt is not None else _find_prompt(path)

    import torch

    from cogvideox.toybox.judge.judge import judge_prompt
    from cogvideox.toybox.judge.preprocess import reduce_frame
    from cogvideox.video import io

    frames, _ = io.read(path, max_frames=MAX_JUDGED_FRAMES, transform=reduce_frame)
    if min(frames.shape[1:3]) < MIN_SIDE:
        size = f"{frames.shape[1]}x{frames.shape[2]}"
        raise UserError(f"{path} is {size}: the judge needs a height and width of at least {MIN_SIDE} pixels")
    results = judge_prompt(torch.from_numpy(frames), prompt)
    if not results:
        raise UserError(f"{prompt!r} states no fact of the toy world: write for example 'a red ball moves left'")
    print(prompt)
    for name, result in results.items():
        verdict = "right" if result.correct else f"wrong: {result.observed or 'unclear'}"
        print(f"  {name:<12} {result.expected:<12} {verdict}")
    print(f"{sum(result.correct for result in results.values())} of {len(results)} facts right")


def parser() -> Parser:
    """Return the argument parser."""
    p = Parser(
        "toybox",
        "[FACT=WORD ...]",
        "Render scenes of the built-in toy world, print their captions, or judge a video. Set facts such as color=red "
        "or motion=left by name; other facts are random.",
    )
    p.add_argument(
        "facts", nargs="*", metavar="FACT=WORD", help=f"a fact of every scene; facts are {', '.join(FACT_NAMES)}"
    )
    p.add_argument(
        "-o", "--output", type=Path, metavar="FILE|FOLDER", help="output file or folder (default: the current folder)"
    )
    p.add_argument("--num-scenes", type=int, default=1, metavar="N", help="number of scenes, with consecutive seeds")
    p.add_argument("--seed", type=int, default=0, metavar="N", help="random seed of the scene (default: 0)")
    p.add_argument(
        "--grammar",
        default="core",
        metavar="core|full",
        help="core: one toy; full: several toys, patterns, lighting and camera motion (default: core)",
    )
    p.add_argument("--style", default="plain", metavar="short|plain|dense", help="caption style (default: plain)")
    p.add_argument(
        "--num-frames", type=int, default=17, metavar="N", help="number of frames; 1 renders an image (default: 17)"
    )
    p.add_argument("--height", type=int, default=128, metavar="PIXELS", help="height in pixels (default: 128)")
    p.add_argument("--width", type=int, default=128, metavar="PIXELS", help="width in pixels (default: 128)")
    p.add_argument("--fps", type=float, default=16.0, metavar="X", help="frames per second (default: 16)")
    p.add_argument("--sheet", action="store_true", help="also write all scenes as one image, toybox-sheet.png")
    p.add_argument("--caption", action="store_true", help="print captions in every style instead of rendering")
    p.add_argument("--judge", type=Path, metavar="VIDEO", help="judge a video against its prompt instead of rendering")
    p.add_argument(
        "--prompt", metavar="TEXT", help="prompt for --judge (default: from the JSON or text file next to the video)"
    )
    return p


def _paths(output: Path | None, seeds: Sequence[int], *, image: bool) -> list[Path]:
    """Return the path of each scene's video: `output` if it is a file, otherwise files in it that are named by seed."""
    if output is not None and output.suffix and not output.is_dir():
        from cogvideox.video.io import check_format  # imports PyAV, which `--help` does not need

        check_format(output)
        if len(seeds) == 1:
            return [output]
        raise UserError(f"{output} is a file, but {len(seeds)} scenes need a folder: use a name without a suffix")
    return [(output or Path()) / f"toybox-{seed}{'.png' if image else '.mp4'}" for seed in seeds]


def _sheet(paths: Sequence[Path]) -> Path:
    return (
        paths[0].with_name("toybox-sheet.png") if len(paths) > 1 else paths[0].with_name(f"{paths[0].stem}-sheet.png")
    )


def _find_prompt(path: Path) -> str:
    if not path.is_file():
        raise UserError(f"cannot read {path}: file not found")
    from cogvideox.records import sidecar_path  # imports NumPy, which `--help` does not need

    sidecar = sidecar_path(path)
    try:
        return str(parse_json(read_text(sidecar))["prompt"])
    except (OSError, ValueError, LookupError, TypeError):
        try:
            return read_text(path.with_suffix(".txt")).strip()
        except (OSError, ValueError):
            raise UserError(f"no prompt found in {sidecar} or a .txt file: pass it with --prompt") from None


def _facts(arguments: Sequence[str]) -> dict[str, str]:
    facts: dict[str, str] = {}
    for argument in arguments:
        name, equals, word = argument.partition("=")
        if not equals or name not in FACT_NAMES:
            raise UserError(f"{argument!r} is not FACT=WORD, such as color=red; facts are {', '.join(FACT_NAMES)}")
        if facts.setdefault(name, word) != word:
            raise UserError(f"{name} is set twice, to {facts[name]} and to {word}: remove one of them")
    return facts


def _reject_options_except(options: Namespace, allowed: Collection[str], mode: str) -> None:
    """Reject options without effect in a mode, `--judge` or `--caption`."""
    defaults = vars(parser().parse([]))
    for name, value in vars(options).items():
        if name not in allowed and value != defaults[name]:
            option = value[0] if name == "facts" else _flag(name)
            raise UserError(f"{option} has no effect with {mode}, which does not render: remove one of them")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
