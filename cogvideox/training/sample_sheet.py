"""Write the samples of a training run as an image and a video."""

from collections.abc import Sequence
from pathlib import Path

from einops import rearrange
from jaxtyping import UInt8
from torch import Tensor

from cogvideox.records import Video
from cogvideox.video.sheet import ends_and_middle, side_by_side


def write_sheet(path: Path, videos: UInt8[Tensor, "n t h w 3"], prompts: Sequence[str], fps: float) -> None:
    """Write a contact sheet of videos.

    `x.png` shows the first, middle and last frame of each video under its prompt, up to four videos in a row. `x.mp4`
    plays all videos side by side, and `x.json` lists the prompts in reading order.

    Raises:
        UserError: a file cannot be written.
    """
    per_row = next(k for k in (4, 3, 2, 1) if len(videos) % k == 0)
    sheet = side_by_side(videos[:, ends_and_middle(videos.shape[1])].cpu().numpy(), per_row, prompts)
    Video(sheet[None], fps=1.0, metadata={"prompts": list(prompts)}).save(path)
    grid = rearrange(videos, "(row k) t h w c -> t (row h) (k w) c", k=per_row)
    Video(grid.cpu().numpy(), fps=fps).save(path.with_suffix(".mp4"))
