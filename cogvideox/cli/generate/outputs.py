"""Output files of `cogvideox generate`: naming, detection of finished videos, and checks before writing."""

import errno
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from cogvideox.atomic_io import cannot_write
from cogvideox.cli.common.writable import check_writable
from cogvideox.errors import UserError
from cogvideox.generation.request.input_sources import InputSource
from cogvideox.generation.request.request import Request
from cogvideox.generation.request.sidecar import Sidecar, is_sidecar_of


@dataclass(frozen=True)
class Output:
    """The output files of a video; `sheet` is None unless it is requested."""

    video: Path
    sheet: Path | None

    @property
    def sidecar(self) -> Path:
        from cogvideox.records import sidecar_path  # imports NumPy, which `--help` does not need

        return sidecar_path(self.video)


def name_outputs(
    output: Path | None, requests: Sequence[Request], sheet: bool, *, from_file: bool = False
) -> list[Output]:
    """Name the output files of each request.

    The video is `x.mp4`, or `x-1.mp4`, `x-2.mp4`, ... for several requests. Its sheet is `x-sheet.png`. If `output` is
    a folder or None, names consist of the prompt and the seed, and duplicates are numbered.

    Args:
        from_file: whether the requests come from a prompt file. `output` is then a folder, which need not exist yet.

    Raises:
        UserError: `from_file`, but `output` is a video file.
    """
    from cogvideox.video.io import FORMATS  # imports PyAV, which `--help` does not need

    if from_file and output is not None and output.suffix.lower() in FORMATS and not _is_folder(output):
        raise UserError(f"cannot write {output}: a prompt file needs a folder for its videos, not a single file")
    outputs, names = [], Counter[Path]()
    for number, request in enumerate(requests, start=1):
        if output is None or from_file or _is_folder(output):
            words = re.findall(r"[a-z0-9]+", request.prompt.lower())[:8] or ["video"]
            video = plain = (output or Path()) / f"{'-'.join(words)[:60]}-{request.seed}.mp4"
            while names[video]:  # a numbered name may collide with that of another prompt
                names[plain] += 1
                video = plain.with_stem(f"{plain.stem}-{names[plain]}")
            names[video] = 1
        elif len(requests) > 1:
            video = output.with_stem(f"{output.stem}-{number}")
        else:
            video = output
        outputs.append(Output(video, video.with_name(f"{video.stem}-sheet.png") if sheet else None))
    return outputs


def is_complete(output: Output, request: Request, model: Mapping[str, Any]) -> bool:
    """Return whether the video of a request already exists.

    The sidecar is written last, so the other files are complete if it exists.

    Args:
        model: the sidecar fields of the model (see `sidecar.is_sidecar_of`).
    """
    if not output.video.exists() or (output.sheet is not None and not output.sheet.exists()):
        return False
    return is_sidecar_of(output.sidecar, request, model)


def check_not_overwritten(
    outputs: Sequence[Output], requests: Sequence[Request], model: Mapping[str, Any], *, from_file: bool = False
) -> None:
    """Check that no existing video is replaced by a video of other settings.

    Args:
        model: see `is_complete`.
        from_file: whether the requests come from a prompt file. Videos without a JSON file are then replaced, because
            an interrupted run leaves them.

    Raises:
        UserError: an output exists and was not generated with the same settings.
    """
    existing = [
        output
        for output, request in zip(outputs, requests)
        if output.video.exists() and not output.video.is_dir() and not is_sidecar_of(output.sidecar, request, model)
        if not from_file or output.sidecar.exists()
    ]
    if len(existing) == 1:
        raise UserError(
            f"{existing[0].video} exists and has other settings: pass --overwrite to replace it, or a different -o"
        )
    if existing:
        raise UserError(
            f"{existing[0].video} and {len(existing) - 1} more exist and have other settings: pass --overwrite to "
            "replace them, or a different -o"
        )


def check_outputs(outputs: Sequence[Output], requests: Sequence[Request], inputs: Iterable[InputSource]) -> None:
    """Check that the files of all requests can be written: format, permission, free space, name conflicts.

    Args:
        inputs: input images and videos, which must not be overwritten.

    Raises:
        UserError: a file cannot be written, or would overwrite an input or an unrelated JSON file.
    """
    from cogvideox.records import check_sidecar  # imports NumPy and PyAV, which `--help` does not need
    from cogvideox.video.io import check_format

    num_bytes = sum(_max_bytes(output, request) for output, request in zip(outputs, requests))
    input_paths = {Path(source.path).resolve() for source in inputs if source.path is not None}
    for output in outputs:
        check_format(output.video)
        files = [path for path in (output.video, output.sidecar, output.sheet) if path is not None]
        for path in files:
            check_writable(path, num_bytes)
        check_sidecar(output.video, [field.name for field in fields(Sidecar)])
        for path in files:
            if path.is_dir():
                raise cannot_write(path, IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)))
            if path.resolve() in input_paths:
                raise UserError(f"cannot write {path}: it is an input of this command; choose a different -o")


def _max_bytes(output: Output, request: Request) -> int:
    """Return an upper bound on the size of a request's files: the size for pure noise.

    Even for noise, video codecs need at most half the size of the raw pixels. PNG needs the full size. A sheet has at
    most 64 frames, scaled to 320 pixels. The latents checkpoint needs a quarter of a byte per pixel.
    """
    video = request.num_frames * request.height * request.width * 7 // 4
    sheet = 0 if output.sheet is None else min(request.num_frames, 64) * 320**2 * 3
    return video + sheet + 2**16


def _is_folder(path: Path) -> bool:
    with suppress(OSError):  # for example a name that is too long; `check_writable` reports it
        return path.is_dir()
    return False
