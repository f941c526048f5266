"""Where a command's videos go, and whether they will be able to go there, found out before the work begins."""

import errno
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path

from cogvideox import config
from cogvideox.atomic_io import cannot_write
from cogvideox.errors import UserError
from cogvideox.formatting import format_bytes
from cogvideox.generation.request.provenance import Adapter
from cogvideox.generation.request.request import Replay, Request


@dataclass(frozen=True)
class Output:
    """The files of one video."""

    video: Path
    sheet: Path | None

    @property
    def sidecar(self) -> Path:
        return self.video.with_suffix(".json")


def name_outputs(output: Path | None, requests: list[Request], sheet: bool, *, many: bool = False) -> list[Output]:
    """The files of each request: `x.mp4`, or `x-1.mp4`, `x-2.mp4`, ... for several, and `x-sheet.png` beside it.

    Without `output`, and in a folder given as `output`, the name is made of the prompt and the seed; where two would
    have the same, the later ones are numbered.

    Args:
        many: the requests are of many prompts, whose `output` is a folder even where there is none yet.

    Raises:
        UserError: the videos of many prompts in one file.
    """
    from cogvideox.video.io import FORMATS  # with PyAV, which `--help` has no use for

    if many and output is not None and output.suffix.lower() in FORMATS and not _is_folder(output):
        raise UserError(f"cannot write {output}: the videos of many prompts go to a folder")
    outputs, names = [], Counter[Path]()
    for number, request in enumerate(requests, start=1):
        if output is None or many or _is_folder(output):
            words = re.findall(r"[a-z0-9]+", request.prompt.lower())[:8] or ["video"]
            video = plain = (output or Path()) / f"{'-'.join(words)[:60]}-{request.seed}.mp4"
            while names[video]:  # what ends in a number may be the name of another prompt
                names[plain] += 1
                video = plain.with_stem(f"{plain.stem}-{names[plain]}")
            names[video] = 1
        elif len(requests) > 1:
            video = output.with_stem(f"{output.stem}-{number}")
        else:
            video = output
        outputs.append(Output(video, video.with_name(f"{video.stem}-sheet.png") if sheet else None))
    return outputs


def is_made(
    output: Output,
    request: Request,
    *,
    model: str,
    loras: tuple[Adapter, ...] = (),
    weights: str = "exact",
    float8: bool = False,
) -> bool:
    """Whether the video of a request is there: its metadata are put in place last, so with them both are whole."""
    if not output.video.exists() or (output.sheet is not None and not output.sheet.exists()):
        return False
    try:
        replay = config.load(Replay, output.sidecar)
    except UserError:
        return False
    same = all(getattr(replay, field.name) == getattr(request, field.name) for field in fields(request))
    made_by = replay.model, replay.loras, replay.weights, replay.float8
    return same and made_by == (model, loras, weights, float8)


def check_outputs(outputs: Iterable[Output], num_bytes: int) -> None:
    """Whether all files can be written: format, folder, permission, space for `num_bytes`, nothing else under the name.

    Raises:
        UserError: one of them cannot.
    """
    from cogvideox.records import check_sidecar  # with numpy and PyAV, which `--help` has no use for
    from cogvideox.video.io import check_format

    for output in outputs:
        video, sidecar = output.video, output.sidecar
        check_format(video)
        for path in (video, sidecar, output.sheet):
            if path is not None:
                check_folder(path, num_bytes)
        check_sidecar(video, [field.name for field in fields(Replay)])
        for path in (video, sidecar, output.sheet):
            if path is not None and path.is_dir():
                raise cannot_write(path, IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)))


def check_folder(path: Path, num_bytes: int) -> None:
    """Whether a file of that size can be made at `path`, whose folders may not exist yet.

    Raises:
        UserError: it cannot.
    """
    try:
        with suppress(FileNotFoundError, NotADirectoryError):
            path.lstat()  # which fails in its own way when the name is too long
        folder = next((parent for parent in path.absolute().parents if parent.exists()), path)  # / has no parent
        with tempfile.TemporaryFile(dir=folder):
            pass
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise cannot_write(path, error) from error
    if free < num_bytes:
        raise UserError(
            f"cannot write {path}: it may take {format_bytes(num_bytes)}, and its disk has {format_bytes(free)} left"
        )


def _is_folder(path: Path) -> bool:
    with suppress(OSError):  # such as a name that is too long, which is answered when it is to be written
        return path.is_dir()
    return False
