"""Training clips for the VAE: rendered toybox clips, or a folder of user-supplied videos and images.

Axes: b batch, c channels, t frames, h w height and width; pixels in [-1, 1].
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from cogvideox.dataset.config import ToyboxClips
from cogvideox.dataset.ingest.scan import scan_folder
from cogvideox.dataset.latents.toybox_latents import clip_scene
from cogvideox.errors import UserError
from cogvideox.records import Clip
from cogvideox.toybox.render.renderer import render_scenes
from cogvideox.training.config import VAETraining
from cogvideox.video.transform import resize_crop, to_model

Pixels = Float[Tensor, "b 3 t h w"]

CLIPS_PER_VALIDATION_CLIP = 10
"""At most one in this many videos of a folder is held out for validation."""
MIN_FPS_RATIO = 0.75
"""Minimum ratio of a video's frame rate to the training frame rate; below it, many frames would be repeated."""
MIN_SIZE_RATIO = 0.5
"""Minimum ratio of a clip's height or width to the training size; below it, the VAE would learn blur."""


@runtime_checkable
class ClipSource(Protocol):
    """Indexed clips and images of one size. `rng` samples the rest, such as the start of a window."""

    num_clips: int
    num_images: int

    def load_clips(self, indices: Sequence[int], fps: float | None, rng: np.random.Generator) -> Pixels:
        """Load clips at a frame rate of `fps`, or at their default rate if it is None."""
        ...

    def load_images(self, indices: Sequence[int], rng: np.random.Generator) -> Pixels:
        """Load clips of one frame."""
        ...


class ToyboxSource:
    """Rendered toybox clips. The frame rate changes the speed of the motion; images are frames of the clips."""

    def __init__(self, settings: ToyboxClips) -> None:
        self.settings = settings
        self.num_clips = self.num_images = settings.num_clips

    def load_clips(self, indices: Sequence[int], fps: float | None, rng: np.random.Generator) -> Pixels:
        clips = self.settings
        scenes = [clip_scene(clips, index) for index in indices]
        size = {"num_frames": clips.num_frames, "height": clips.height, "width": clips.width}
        return to_model(render_scenes(scenes, fps=fps or clips.fps, **size))

    def load_images(self, indices: Sequence[int], rng: np.random.Generator) -> Pixels:
        video = self.load_clips(indices, None, rng)
        frames = torch.from_numpy(rng.integers(self.settings.num_frames, size=len(indices)))
        return rearrange(video, "b c t h w -> b t c h w")[torch.arange(len(indices)), frames].unsqueeze(2)


class FolderSource:
    """User-supplied videos and images. A clip is a window of a video with a random start.

    Args:
        clips: the videos and images. If there are no images, frames of all videos are used as images.
        size: number of frames, height and width of a training clip, and its default frame rate.
        rates: frame rates of the training clips. A video is read only at rates for which it is long and fast enough.

    Raises:
        UserError: no video is long, fast and large enough.
    """

    def __init__(self, clips: Sequence[Clip], size: ToyboxClips, rates: Sequence[float]) -> None:
        self.size = size
        self.rates = sorted(rates or [size.fps])
        large_enough = [
            clip for clip in clips if min(clip.height / size.height, clip.width / size.width) >= MIN_SIZE_RATIO
        ]
        self.videos = [clip for clip in large_enough if self._usable_rates(clip)]
        self.images = [clip for clip in large_enough if clip.is_image] or large_enough
        self.num_clips, self.num_images = len(self.videos), len(self.images)
        if not self.videos:
            raise UserError(
                f"no clip (of {len(clips)}) can be used for training: a clip needs {size.num_frames} frames at "
                f"{' or '.join(f'{rate:g}' for rate in self.rates)} fps and at least "
                f"{MIN_SIZE_RATIO * size.width:g}x{MIN_SIZE_RATIO * size.height:g} pixels"
            )

    def load_clips(self, indices: Sequence[int], fps: float | None, rng: np.random.Generator) -> Pixels:
        return self._load(self.videos, indices, lambda clip: self._read_window(clip, fps or self.size.fps, rng))

    def load_images(self, indices: Sequence[int], rng: np.random.Generator) -> Pixels:
        return self._load(self.images, indices, lambda clip: self._read_image(clip, rng))

    def _load(self, clips: Sequence[Clip], indices: Sequence[int], read: Callable[[Clip], Tensor]) -> Pixels:
        """Read a clip for each index. If a file is unreadable, report it and use the next one instead."""
        loaded = []
        for index in indices:
            for offset in range(len(clips)):
                clip = clips[(index + offset) % len(clips)]
                try:
                    loaded.append(read(clip))
                    break
                except UserError as error:
                    print(f"skipped: {error}", file=sys.stderr, flush=True)
            else:
                raise UserError("no clip can be read: check that the data folder still exists")
        return to_model(torch.stack(loaded))

    def _usable_rates(self, clip: Clip) -> list[float]:
        """Return the frame rates at which the clip is long enough and few frames are repeated."""
        if clip.is_image:
            return []
        return [
            rate
            for rate in self.rates
            if clip.seconds * rate >= self.size.num_frames and clip.fps >= MIN_FPS_RATIO * rate
        ]

    def _read_window(self, clip: Clip, fps: float, rng: np.random.Generator) -> Tensor:
        usable = self._usable_rates(clip)
        fps = fps if fps in usable else usable[-1]
        start = (clip.start or 0.0) + rng.random() * (clip.seconds - self.size.num_frames / fps)
        from cogvideox.video import io  # imports PyAV, which synthetic clips do not need

        frames, _ = io.read(clip.source, start, None, fps, self.size.num_frames)
        if len(frames) < self.size.num_frames:
            raise UserError(f"{clip.source} has fewer frames than its header says")
        return self._resize(frames)

    def _read_image(self, clip: Clip, rng: np.random.Generator) -> Tensor:
        from cogvideox.video import io

        if clip.is_image:
            return self._resize(io.read_image(clip.source)[None])
        start = (clip.start or 0.0) + rng.random() * max(0.0, clip.seconds - 1 / clip.fps)
        return self._resize(io.read(clip.source, start, None, None, 1)[0])

    def _resize(self, frames: np.ndarray) -> Tensor:
        return resize_crop(torch.from_numpy(frames.copy()), self.size.height, self.size.width)


def open_sources(settings: VAETraining) -> tuple[ClipSource, ClipSource]:
    """Open the training clips and the validation clips.

    From a folder, at most a tenth of the videos is held out for validation. Rejected files are printed with the reason.

    Raises:
        UserError: the folder does not exist or has no usable clips.
    """
    if settings.data is None:
        return ToyboxSource(settings.clips), ToyboxSource(settings.validation)
    if not Path(settings.data).exists():
        raise UserError(f"data folder {settings.data} not found: pass a folder of videos and images with --data")
    listing = scan_folder(settings.data, captions=False, workers=settings.run.workers)
    for source, reason in listing.rejects:
        print(f"skipped: {source}: {reason}", file=sys.stderr, flush=True)
    clips = sorted(listing.clips, key=lambda clip: clip.id)
    videos = FolderSource(clips, settings.clips, settings.frame_rates).videos
    num_held_out = min(settings.validation.num_clips, len(videos) // CLIPS_PER_VALIDATION_CLIP)
    held_out_ids = {clip.id for clip in videos[:num_held_out]}
    training = [clip for clip in clips if clip.id not in held_out_ids][: settings.clips.num_clips]
    source = FolderSource(training, settings.clips, settings.frame_rates)
    # With too few videos to hold one out, the first training video is also used for validation.
    validation = FolderSource(videos[: max(num_held_out, 1)], settings.validation, settings.frame_rates)
    overlap = "" if held_out_ids else "of them also "
    print(
        f"data: {source.num_clips} videos for training, {validation.num_clips} {overlap}for validation, "
        f"{source.num_images} for single frames; {len(listing.rejects)} files skipped",
        file=sys.stderr,
        flush=True,
    )
    return source, validation
