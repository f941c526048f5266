"""Output files of a command, and checks before the work starts that they can be written."""

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
    """The files of each request: `x.mp4`, or `x-1.mp4`, `x-2.mp4`, ... for several, and `x-sheet.png` beside each.

    If `output` is a folder or None, names are made of the prompt and the seed, with a number if two are equal.

    Args:
        many: the requests come from a prompt file; `output` is then a folder, which need not exist yet.

    Raises:
        UserError: `many` with an `output` that names a video file.
    """
    from cogvideox.video.io import FORMATS  # imports PyAV, which `--help` does not need

    if many and output is not None and output.suffix.lower() in FORMATS and not _is_folder(output):
        raise UserError(f"cannot write {output}: a prompt file makes several videos; give a folder")
    outputs, names = [], Counter[Path]()
    for number, request in enumerate(requests, start=1):
        if output is None or many or _is_folder(output):
            words = re.findall(r"[a-z0-9]+", request.prompt.lower())[:8] or ["video"]
            video = plain = (output or Path()) / f"{'-'.join(words)[:60]}-{request.seed}.mp4"
            while names[video]:  # a numbered name may also be that of another prompt
                names[plain] += 1
                video = plain.with_stem(f"{plain.stem}-{names[plain]}")
            names[video] = 1
        elif len(requests) > 1:
            video = output.with_stem(f"{output.stem}-{number}")
        else:
            video = output
        outputs.append(Output(video, video.with_name(f"{video.stem}-sheet.png") if sheet else None))
    return outputs


def is_complete(
    output: Output,
    request: Request,
    *,
    model: str,
    loras: tuple[Adapter, ...] = (),
    weights: str = "exact",
    float8: bool = False,
) -> bool:
    """Whether the video of a request exists already. The sidecar is written last, so it proves that the files are
    complete."""
    if not output.video.exists() or (output.sheet is not None and not output.sheet.exists()):
        return False
    try:
        replay = config.load(Replay, output.sidecar)
    except UserError:
        return False
    same_request = all(getattr(replay, field.name) == getattr(request, field.name) for field in fields(request))
    same_model = (replay.model, replay.loras) == (model, loras)
    return same_request and same_model and (replay.weights, replay.float8) == (weights, float8)


def check_outputs(outputs: Iterable[Output], num_bytes: int) -> None:
    """Check that all files can be written: format, permission, `num_bytes` of free space, no unrelated sidecar.

    Raises:
        UserError: one of them cannot.
    """
    from cogvideox.records import check_sidecar  # imports NumPy and PyAV, which `--help` does not need
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
    """Check that a file of `num_bytes` can be written at `path`. Its folders need not exist yet.

    Raises:
        UserError: no permission, too little free space, an illegal path.
    """
    try:
        with suppress(FileNotFoundError, NotADirectoryError):
            path.lstat()  # raises another error if the name is too long
        folder = next((parent for parent in path.absolute().parents if parent.exists()), path)  # / has no parents
        with tempfile.TemporaryFile(dir=folder):
            pass
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise cannot_write(path, error) from error
    if free < num_bytes:
        raise UserError(
            f"cannot write {path}: it may need {format_bytes(num_bytes)}, and the disk has {format_bytes(free)} left"
        )


def _is_folder(path: Path) -> bool:
    with suppress(OSError):  # for example a name that is too long, which `check_folder` reports
        return path.is_dir()
    return False
