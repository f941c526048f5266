"""Charts of an ablation: the training loss of all runs, and a sheet with samples of each arm."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from einops import rearrange

from cogvideox.ablation.curves import averaged
from cogvideox.ablation.report.summary import ArmResults
from cogvideox.records import Video
from cogvideox.training.metrics.charts import COLORS, Curve, chart, draw, legend
from cogvideox.video.sheet import ends_and_middle, side_by_side

NUM_POINTS = 60


def draw_losses(results: ArmResults, path: Path) -> None:
    """Draw the training loss of each run, in the color of its arm; the first fifth of the steps is left out."""
    curves, entries = [], []
    for index, (name, runs) in enumerate(results.items()):
        color = COLORS[index % len(COLORS)]
        entries.append((name, Curve((), color)))
        for run in runs:
            points = [(int(step), float(loss)) for step, loss in run["curve"]]
            points = averaged(points[len(points) // 5 :], NUM_POINTS)
            curves.append(Curve([(float(step), loss) for step, loss in points], color))
    with chart(path, 7.0, 4.0) as figure:
        draw(figure.subplots(), "training loss", curves, integer_x=True)
        legend(figure, entries, columns=min(3, len(entries)))


def draw_samples(frames: Mapping[str, np.ndarray], path: Path) -> None:
    """Write a sheet with a row for each arm: first, middle and last frame of its first videos [n t h w 3]."""
    shown = [videos[:, ends_and_middle(videos.shape[1])] for videos in frames.values()]
    rows = [rearrange(videos, "n t h w c -> (n t) h w c") for videos in shown]
    if rows and all(row.size for row in rows) and len({row.shape for row in rows}) == 1:
        Video(side_by_side(np.stack(rows), columns=1, labels=list(frames))[None], fps=1.0).save(path)


def read_frames(files: Sequence[Path]) -> list[np.ndarray]:
    """Read the frames that were kept beside result files."""
    return [np.load(file.with_suffix(".npz"))["frames"] for file in files]
