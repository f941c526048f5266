"""`cogvideox encode FOLDER -o STORE`: a folder of videos and captions as latents and features, made once."""

import argparse
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from cogvideox.cli.arguments import Parser
from cogvideox.dataset.config import ClipFormat
from cogvideox.errors import UserError
from cogvideox.executor.job_array import Shard
from cogvideox.pretrained.model_spec import ModelSpec, read_spec

if TYPE_CHECKING:
    from cogvideox.dataset.ingest.clip_windows import ClipWindow

EVERY = 2.0  # seconds between two lines of progress


def run(arguments: list[str]) -> None:
    """Looks at the folder, says what is in it and what becomes of it, and encodes what is not in the store yet."""
    options = parser().parse(arguments)
    if options.folder is None:
        raise UserError("encode takes a folder of videos or images; see `cogvideox encode --help`")
    if options.output is None and options.sheet is None and not options.dry_run:
        raise UserError("where to? -o STORE names a folder for the latents; --dry-run only looks")
    if options.sheet is not None and options.sheet.suffix.lower() != ".png":
        raise UserError(f"cannot write {options.sheet}: the name of a contact sheet ends in .png")
    if options.workers < 0:
        raise UserError(f"--workers {options.workers} is below the smallest legal value, 0")
    shard = Shard() if options.shard is None else Shard.parse(options.shard)
    spec = read_spec(options.model)
    target = target_of(options, spec)

    import torch  # it takes seconds, so not before the arguments are known to be right

    from cogvideox.dataset.ingest.report import format_rejects, format_summary
    from cogvideox.dataset.ingest.scan import scan_folder
    from cogvideox.dataset.latents.encode import encode_clips
    from cogvideox.dataset.latents.encode_plan import plan_encoding
    from cogvideox.dataset.latents.encode_workers import EncodeDevice
    from cogvideox.device import choose_device, choose_dtype
    from cogvideox.formatting import format_bytes

    backend = "ray" if options.ray else "local"
    device = choose_device(options.device)
    dtype = str(choose_dtype(options.dtype, device, spec.settings.dtype)).removeprefix("torch.")
    progress = Progress()
    folder = scan_folder(
        options.folder,
        shard=shard,
        workers=options.workers,
        backend=backend,
        on_progress=lambda done, total: progress("files", done, total),
    )
    plan = plan_encoding(folder, spec, target)
    print(format_summary(folder, plan.windows, target))
    dry_run = options.output is None or options.dry_run
    if dry_run and plan.windows:
        print(f"  a store   takes about {format_bytes(plan.num_bytes)}")
    if dry_run and plan.rejects:
        print(format_rejects(plan.rejects))
    if options.sheet is not None:
        _write_sheet(options.sheet, plan.windows)
    if dry_run:
        return

    from cogvideox.cli.writable import check_writable

    check_writable(options.output / "index.parquet", plan.num_bytes)
    threads = max(1, torch.get_num_threads() // options.workers) if options.workers else None
    start = time.perf_counter()
    result = encode_clips(
        plan,
        options.output,
        device=EncodeDevice(str(device), dtype, threads),
        shard=shard,
        workers=options.workers,
        backend=backend,
        on_progress=progress,
    )
    if result.rejects:
        print(format_rejects(result.rejects))
    new = f"{result.num_new_latents} clips and {result.num_new_texts} captions encoded now"
    if target.first_frames:
        new = f"{new}, and the first frame of {result.num_new_first_frames}"
    print(f"{options.output}: {result.num_clips} clips, {new}, in {time.perf_counter() - start:.1f} s")
    if not result.complete:
        print(f"this is shard {options.shard}; the index is written when the others are done too")


def target_of(options: argparse.Namespace, spec: ModelSpec) -> ClipFormat:
    """What clips become, by the options and else by the model's own defaults.

    Raises:
        UserError: as `Target`; a size that cannot be read.
    """
    settings = spec.settings
    height, width, area = options.height, options.width, None
    if options.max_size is not None:
        if height is not None or width is not None:
            raise UserError("--max-size keeps the shape of each clip, --height and --width give all the same: take one")
        match = re.fullmatch(r"(\d+)x(\d+)", options.max_size)
        if match is None:
            raise UserError(f"--max-size {options.max_size} is no size; write WIDTHxHEIGHT, such as 720x480")
        area = int(match[1]) * int(match[2])
    elif height is None and width is None:
        height, width = settings.height, settings.width
    target = ClipFormat(
        fps=settings.fps if options.fps is None else options.fps,
        num_frames=settings.num_frames if options.num_frames is None else options.num_frames,
        height=height,
        width=width,
        max_area=area,
        multiple=spec.size_multiple,
        windows=options.windows,
        first_frames=options.first_frames or 0,
    )
    begins_with_image = spec.transformer.takes_image and options.first_frames is None
    return target.with_first_frames() if begins_with_image else target


class Progress:
    """A line on the error stream every now and then, and one at the end of what took longer."""

    def __init__(self) -> None:
        self._next = time.monotonic() + EVERY
        self._told = ""

    def __call__(self, what: str, done: int, total: int) -> None:
        """Notes that `done` of `total` are done."""
        if time.monotonic() >= self._next or (done == total and what == self._told):
            print(f"{what}: {done} of {total}", file=sys.stderr, flush=True)
            self._next, self._told = time.monotonic() + EVERY, what


def _write_sheet(path: Path, views: "list[ClipWindow]") -> None:
    from cogvideox.dataset.ingest.frame_reader import contact_sheet
    from cogvideox.records import Video

    sheet, shown = contact_sheet(views)
    told = [
        {
            "source": str(view.clip.source),
            "start": view.clip.start,
            "num_frames": view.num_frames,
            "height": view.height,
            "width": view.width,
            "caption": view.clip.caption,
        }
        for view in shown
    ]
    Video(sheet[None], fps=1.0, metadata={"clips": told}).save(path)
    print(f"  {path} shows {len(shown)} of them, four frames each; {path.with_suffix('.json')} says which")


def parser() -> Parser:
    """The flags of the verb."""
    p = Parser(
        "encode",
        "FOLDER -o STORE",
        "Encode videos, images and captions once, for training. FOLDER has a.mp4 + a.txt, prompts.txt + videos.txt, "
        "videos/ + labels/, metadata.jsonl, .csv or .parquet, or images. What STORE already holds is not made again.",
    )
    p.add_argument("folder", nargs="?", type=Path, metavar="FOLDER", help="the data, or the table that names them")
    p.add_argument("-o", "--output", type=Path, metavar="STORE", help="the folder for latents and features")
    p.add_argument(
        "--model", default="toybox", metavar="NAME|PATH", help="whose VAE and text encoder (default: toybox)"
    )
    p.add_argument("--sheet", type=Path, metavar="X.PNG", help="a picture of what the model will see")
    p.add_argument("--dry-run", action="store_true", help="say what is in FOLDER and what becomes of it, and stop")

    size = p.add_argument_group("what the model sees (default: the model's own size, frames and rate)")
    size.add_argument("--max-size", metavar="WxH", help="keep each clip's shape, with at most so many pixels")
    size.add_argument("--height", type=int, metavar="PIXELS", help="one size for all, filled and cut to its middle")
    size.add_argument("--width", type=int, metavar="PIXELS", help="a multiple of 16")
    size.add_argument("--fps", type=float, metavar="X", help="frames a second; slower clips are rejected")
    size.add_argument("--num-frames", type=int, metavar="N", help="4k+1: longer clips are cut into windows of so many")
    windows = "all windows of a long clip, or its first (default: all)"
    first_frames = (
        "encode each clip's first frame N times under noise too, to train an image model (default: 4 for one)"
    )
    size.add_argument("--first-frames", type=int, metavar="N", help=first_frames)
    size.add_argument("--windows", choices=("all", "first"), default="all", help=windows)

    machine = p.add_argument_group("machine")
    workers = "processes, each with the networks in memory (default: 0, which is this one)"
    machine.add_argument("--workers", type=int, default=0, metavar="N", help=workers)
    shard = "the part of job K of N, counted from 0; the last one that is done puts all together"
    machine.add_argument("--shard", metavar="K/N", help=shard)
    machine.add_argument("--ray", action="store_true", help="on a Ray cluster, whose machines see the same disk")
    machine.add_argument("--device", default="auto", metavar="auto|cpu|cuda", help="auto: CUDA where there is a GPU")
    machine.add_argument(
        "--dtype", default="auto", metavar="auto|float32|bfloat16|float16", help="auto: float32 on CPU"
    )
    return p
