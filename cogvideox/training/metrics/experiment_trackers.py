"""Experiment trackers beside `metrics.jsonl`: TensorBoard, Weights & Biases, Trackio (`run.trackers`).

Each receives the settings, all metrics and the sample sheets. Their packages are imported when a run opens them. A
resumed run continues the run of each tracker: its name there is in `tracker_run.txt` in the run folder, and the steps
that each tracker has received are in `tracker_steps.json`.
"""

import os
import re
import secrets
import sys
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cogvideox.atomic_io import write_text
from cogvideox.config import dotted, to_dict
from cogvideox.errors import UserError
from cogvideox.training.config import TrackerName
from cogvideox.training.metrics.tracker_group import ExperimentTracker, TrackerGroup
from cogvideox.untrusted.files import read_text

PROJECT = "cogvideox"
"""Project of the runs, unless WANDB_PROJECT or TRACKIO_PROJECT is set."""

STEPS_FILE = "tracker_steps.json"
"""File in the run folder with the steps that each tracker has received (`TrackerGroup`)."""

GIF_WIDTH = 640
"""Maximum width of the animated samples in TensorBoard, which cannot show MP4 files."""


class TensorBoard:
    """Event files in `tensorboard/` of the run folder. Points of repeated steps are purged."""

    purges_repeated_steps = True

    def __init__(self, out: Path, start: int, settings: Any) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(out / "tensorboard"), purge_step=start + 1)
        table = [f"| {name} | {value} |" for name, value in dotted(to_dict(settings)).items()]
        self.writer.add_text("settings", "\n".join(["| setting | value |", "| --- | --- |", *table]), start)

    def log(self, step: int, values: Mapping[str, float | int]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def log_samples(self, step: int, sheet: Path, video: Path) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        from cogvideox.video.io import read_image

        image = read_image(sheet)
        self.writer.add_image("samples/sheet", image, step, dataformats="HWC")
        gif = Summary.Image(encoded_image_string=_as_gif(video))
        file_writer = self.writer.file_writer
        assert file_writer is not None
        file_writer.add_summary(Summary(value=[Summary.Value(tag="samples/video", image=gif)]), step)

    def close(self, *, failed: bool) -> None:
        self.writer.close()


class WandB:
    """A run in Weights & Biases, with its local files in `wandb/` of the run folder.

    WANDB_MODE, WANDB_PROJECT and WANDB_ENTITY apply. Without a login or a network, the run is recorded offline, and
    nothing is asked on the terminal.
    """

    purges_repeated_steps = False

    def __init__(self, out: Path, name: str, settings: Any) -> None:
        import wandb

        # `create_new`: does not end a run that the caller has opened, such as in a notebook.
        options: dict[str, Any] = {
            "project": os.environ.get("WANDB_PROJECT", PROJECT),
            "dir": str(out),
            "id": name,
            "name": name,
            "resume": "allow",
            "config": to_dict(settings),
            "reinit": "create_new",
            "settings": wandb.Settings(console="off"),
        }
        self.wandb = wandb
        try:
            if _needs_login(wandb):
                raise wandb.errors.UsageError("no API key is configured")
            self.run = wandb.init(**options)
        except (wandb.errors.UsageError, wandb.errors.CommError) as error:
            print(f"note: wandb records the run offline ({error}); upload it with `wandb sync`", file=sys.stderr)
            self.run = wandb.init(**options, mode="offline")

    def log(self, step: int, values: Mapping[str, float | int]) -> None:
        self.run.log(dict(values), step=step)

    def log_samples(self, step: int, sheet: Path, video: Path) -> None:
        clip = self.wandb.Video(str(video), format="mp4")
        self.run.log({"samples/sheet": self.wandb.Image(str(sheet)), "samples/video": clip}, step=step)

    def close(self, *, failed: bool) -> None:
        self.run.finish(exit_code=int(failed))
        if self.wandb.run is None:  # otherwise the caller's run needs the service process
            self.wandb.teardown()


class Trackio:
    """A run in Trackio's local database (TRACKIO_DIR), which `trackio show` displays. Starts no server."""

    purges_repeated_steps = False

    def __init__(self, name: str, settings: Any) -> None:
        import trackio

        self.trackio = trackio
        with redirect_stdout(sys.stderr):
            self.run = trackio.init(
                project=os.environ.get("TRACKIO_PROJECT", PROJECT),
                name=name,
                config=to_dict(settings),
                resume="allow",
                embed=False,
                auto_log_cpu=False,
            )

    def log(self, step: int, values: Mapping[str, float | int]) -> None:
        self.run.log(dict(values), step=step)

    def log_samples(self, step: int, sheet: Path, video: Path) -> None:
        media = {"samples/sheet": self.trackio.Image(str(sheet)), "samples/video": self.trackio.Video(str(video))}
        self.run.log(media, step=step)

    def close(self, *, failed: bool) -> None:
        from trackio import context_vars

        with redirect_stdout(sys.stderr):
            self.run.finish()
        if context_vars.current_run.get() is self.run:  # Trackio would finish it again, and print, when Python exits
            context_vars.current_run.set(None)


def check_packages(names: Collection[TrackerName]) -> None:
    """Check that the packages of trackers are installed, before anything is encoded.

    Raises:
        UserError: a package is missing; the message has the command that installs it.
    """
    for name in names:
        spec = find_spec(name)
        if spec is None or spec.origin is None:  # a folder of this name, such as wandb's own files, has no origin
            raise UserError(f"run.trackers={name} needs the package {name}: pip install 'cogvideox[trackers]'")


def open_trackers(
    names: Sequence[TrackerName], out: Path, start: int, settings: Any, note: Callable[[str], None]
) -> TrackerGroup:
    """Open the trackers of a run in the folder `out`.

    Args:
        start: number of optimizer steps that earlier processes have done; 0 starts a new run in each tracker.
        settings: the config of the run.
        note: prints a line about an error of a tracker, which does not end the run.
    """
    if not names:
        return TrackerGroup()
    name = _run_name(out, start)
    openers: dict[TrackerName, Callable[[], ExperimentTracker]] = {
        "tensorboard": lambda: TensorBoard(out, start, settings),
        "wandb": lambda: WandB(out, name, settings),
        "trackio": lambda: Trackio(name, settings),
    }
    return TrackerGroup({tracker: openers[tracker] for tracker in names}, out / STEPS_FILE, note)


def _run_name(out: Path, start: int) -> str:
    """Return the name of the run in the trackers: that of the run folder with a random suffix."""
    file = out / "tracker_run.txt"
    if start and file.exists() and (name := read_text(file).strip()):
        return name
    (out / STEPS_FILE).unlink(missing_ok=True)  # the new run has received no steps
    name = f"{re.sub(r'[^A-Za-z0-9._-]', '-', out.resolve().name)[:80] or 'run'}-{secrets.token_hex(3)}"
    write_text(file, name + "\n")
    return name


def _needs_login(wandb: Any) -> bool:
    """Return whether `wandb.init` would ask for a key on a terminal."""
    settings = wandb.setup().settings
    if settings.mode in ("offline", "dryrun", "disabled") or settings.api_key:
        return False
    if wandb.run is not None:  # the caller's run, after which `login` has no effect
        return wandb.run.offline
    return not wandb.login(prompt=False, verify=False)


def _as_gif(video: Path) -> bytes:
    import torch

    from cogvideox.video import io
    from cogvideox.video.transform import resize

    frames, fps = io.read(video)
    height, width = frames.shape[1:3]
    if width > GIF_WIDTH:
        frames = resize(torch.from_numpy(frames), max(1, round(height * GIF_WIDTH / width)), GIF_WIDTH).numpy()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "samples.gif"
        io.write(path, frames, fps)
        return path.read_bytes()
