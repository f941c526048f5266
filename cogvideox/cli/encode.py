"""`cogvideox encode FOLDER -o STORE`: encode videos and captions to latents and prompt embeddings, for training."""

import argparse
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

from cogvideox.cli.common.arguments import Parser
from cogvideox.cli.common.messages import print_message
from cogvideox.dataset.config import ClipFormat
from cogvideox.errors import UserError
from cogvideox.executor.job_array import Shard
from cogvideox.pretrained.model_spec import ModelSpec, read_spec
from cogvideox.progress import ProgressLines
from cogvideox.untrusted.text_encoding import check_utf8_path

if TYPE_CHECKING:
    from cogvideox.dataset.ingest.clip_windows import ClipWindow


def run(arguments: list[str]) -> None:
    """Scan the folder, print a summary, and encode the clips that are not in the store yet."""
    options = parser().parse(arguments)
    if options.folder is None:
        raise UserError("encode needs a FOLDER of videos or images; see `cogvideox encode --help`")
    if options.output is None and options.sheet is None and not options.dry_run:
        raise UserError("missing -o/--output STORE, the folder for the latents; --dry-run only prints a summary")
    if options.sheet is not None and options.sheet.suffix.lower() != ".png":
        raise UserError(f"cannot write {options.sheet}: the name of a contact sheet must end in .png")
    if options.output is not None:
        check_utf8_path(options.output)
    if options.workers < 0:
        raise UserError(f"--workers {options.workers} must be 0 or more")
    shard = Shard() if options.shard is None else Shard.parse(options.shard)
    spec = read_spec(options.model)
    target = clip_format(options, spec)

    import torch  # takes seconds, so imported after the arguments have been checked

    from cogvideox.dataset.ingest.report import format_failures, format_rejects, format_summary
    from cogvideox.dataset.ingest.scan import scan_folder
    from cogvideox.dataset.latents.encode import encode_clips
    from cogvideox.dataset.latents.encode_memory import measure_budget
    from cogvideox.dataset.latents.encode_plan import plan_encoding
    from cogvideox.dataset.latents.encode_workers import EncodeDevice
    from cogvideox.device import choose_device
    from cogvideox.dtype import choose_dtype, dtype_name
    from cogvideox.formatting import format_bytes

    backend = "ray" if options.ray else "local"
    device = choose_device(options.device)
    dtype = dtype_name(choose_dtype(options.dtype, device, spec.settings.dtype))
    progress = ProgressLines(print_message)
    folder = scan_folder(
        options.folder,
        shard=shard,
        workers=options.workers,
        backend=backend,
        on_progress=lambda done, total: progress("reading files", done, total),
    )
    plan = plan_encoding(folder, spec, target, options.norm_statistics)
    print(format_summary(folder, plan.clips, plan.windows, target))
    if plan.windows:
        budget = measure_budget(str(device), dtype, options.workers)
        print(f"  encoded   {budget.describe(spec.vae, plan.windows, plan.settings.norm_statistics)}")
    if (options.output is None or options.dry_run) and plan.windows:
        print(f"  estimated store size: {format_bytes(plan.num_bytes)}")
    if plan.rejects:
        print(format_rejects(plan.rejects))
    if options.sheet is not None and plan.windows:
        _write_sheet(options.sheet, plan.windows)
    elif options.sheet is not None:
        raise UserError(f"{options.folder} has no usable clips, so {options.sheet} is not written")
    if options.output is None or options.dry_run:
        return
    if not plan.windows and shard.world == 1:
        raise UserError(f"{options.folder} has no usable clips, so {options.output} is not written")

    from cogvideox.cli.common.writable import check_writable

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
        on_progress=lambda stage, done, total: progress(f"encoding {stage}", done, total),
    )
    if result.failures:
        print(format_failures(result.failures, len(plan.planned)))
    encoded = f"{result.num_new_latents} clips and {result.num_new_texts} captions newly encoded"
    if target.first_frames:
        encoded += f", with the first frames of {result.num_new_first_frames}"
    print(f"{options.output}: {result.num_clips} clips, {encoded}, in {time.perf_counter() - start:.1f} s")
    if result.complete and result.num_clips == 0:
        raise UserError(f"no clip of {options.folder} could be encoded")
    if not result.complete:
        print(f"this is shard {options.shard}; the index is written when all shards are done")


def clip_format(options: argparse.Namespace, spec: ModelSpec) -> ClipFormat:
    """Return the format of encoded clips from the command's options. Options that are not set default to the model's.

    Raises:
        UserError: invalid value for `ClipFormat`; malformed `--max-size`.
    """
    settings = spec.settings
    height, width, area = options.height, options.width, None
    if options.max_size is not None:
        if height is not None or width is not None:
            raise UserError(
                "--max-size keeps each clip's aspect ratio, but --height and --width set one size: use only one of them"
            )
        match = re.fullmatch(r"(\d+)x(\d+)", options.max_size)
        if match is None:
            raise UserError(f"--max-size {options.max_size} is not a size: write WIDTHxHEIGHT, such as 720x480")
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
    needs_first_frames = spec.transformer.is_image_to_video and options.first_frames is None
    return target.with_first_frames() if needs_first_frames else target


def _write_sheet(path: Path, windows: "list[ClipWindow]") -> None:
    from cogvideox.dataset.ingest.frame_reader import contact_sheet
    from cogvideox.records import Video

    sheet, sampled_windows = contact_sheet(windows)
    clips = [
        {
            "source": str(window.clip.source),
            "start": window.clip.start,
            "num_frames": window.num_frames,
            "height": window.height,
            "width": window.width,
            "caption": window.clip.caption,
        }
        for window in sampled_windows
    ]
    Video(sheet[None], fps=1.0, metadata={"clips": clips}).save(path)
    print(f"  {path} shows four frames of {len(sampled_windows)} clips; {path.with_suffix('.json')} lists them")


def parser() -> Parser:
    """Return the argument parser."""
    p = Parser(
        "encode",
        "FOLDER -o STORE",
        "Encode videos, images and captions for training. FOLDER has a.mp4 + a.txt, prompts.txt + videos.txt, "
        "videos/ + labels/, metadata.jsonl, .csv or .parquet, or images. Clips that are in STORE are skipped.",
    )
    p.add_argument(
        "folder", nargs="?", type=Path, metavar="FOLDER", help="folder of clips, or a table that lists files"
    )
    p.add_argument("-o", "--output", type=Path, metavar="STORE", help="folder for latents and prompt embeddings")
    p.add_argument(
        "--model",
        default="toybox",
        metavar="NAME|PATH",
        help="model whose VAE and text encoder are used (default: toybox)",
    )
    p.add_argument(
        "--sheet", type=Path, metavar="X.PNG", help="write a contact sheet of the clips as the model sees them"
    )
    p.add_argument("--dry-run", action="store_true", help="print a summary of FOLDER and exit")

    size = p.add_argument_group("size and length of clips (default: those of the model)")
    size.add_argument("--max-size", metavar="WxH", help="keep each clip's aspect ratio, with at most this many pixels")
    size.add_argument(
        "--height",
        type=int,
        metavar="PIXELS",
        help="height of all clips, a multiple of 16; clips are resized and center-cropped",
    )
    size.add_argument("--width", type=int, metavar="PIXELS", help="width of all clips, a multiple of 16")
    size.add_argument(
        "--fps", type=float, metavar="X", help="frame rate in frames per second; clips with a lower rate are rejected"
    )
    size.add_argument(
        "--num-frames", type=int, metavar="N", help="frames per clip, 4k+1; longer clips are split into windows"
    )
    windows = "encode all windows of a long clip or only the first (default: all)"
    first_frames = "also encode each first frame with N noise samples (default: 4 for image-to-video models)"
    size.add_argument("--first-frames", type=int, metavar="N", help=first_frames)
    norms = "pool the VAE's group norms over the whole clip or over chunks of 8 frames (default: as in training)"
    size.add_argument("--norm-statistics", choices=("clip", "chunk"), help=norms)
    size.add_argument("--windows", choices=("all", "first"), default="all", help=windows)

    machine = p.add_argument_group("machine")
    workers = "worker processes, each with its own copy of the networks (default: 0, no extra process)"
    machine.add_argument("--workers", type=int, default=0, metavar="N", help=workers)
    shard = "encode shard K of N (0-based); the last job to finish writes the index"
    machine.add_argument("--shard", metavar="K/N", help=shard)
    machine.add_argument("--ray", action="store_true", help="run on a Ray cluster with a shared file system")
    machine.add_argument(
        "--device", default="auto", metavar="auto|cpu|cuda", help="device of the networks; auto uses a GPU if available"
    )
    machine.add_argument(
        "--dtype",
        default="auto",
        metavar="auto|float32|bfloat16|float16",
        help="compute dtype; auto is float32 on a CPU",
    )
    return p
