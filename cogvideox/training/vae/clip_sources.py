"""Where the clips of a VAE run come from: the toybox, or a user's folder of videos and images.

Axes: b clips, c channels, t frames, h w height and width; pixels in [-1, 1].
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
from cogvideox.video import io
from cogvideox.video.transform import resize_crop, to_model

Pixels = Float[Tensor, "b 3 t h w"]

HELD_OUT = 10
"""Of a folder, at most one clip in so many is kept to measure on."""
SLOWEST = 0.75
"""A clip may have so much less of frames a second than it is read at; below, many frames would be repetitions."""
SMALLEST = 0.5
"""And so much less of height or width than it is trained at; below, a VAE would learn blur from it."""


@runtime_checkable
class Source(Protocol):
    """Numbered clips and numbered pictures of one size. The generator decides what the number leaves open."""

    num_clips: int
    num_pictures: int

    def clips(self, indices: Sequence[int], fps: float | None, rng: np.random.Generator) -> Pixels:
        """Clips at a rate of `fps` frames a second, or at their usual one."""
        ...

    def pictures(self, indices: Sequence[int], rng: np.random.Generator) -> Pixels:
        """Clips of one frame."""
        ...


class Toybox:
    """Rendered clips. At another rate than theirs the same toys move slower or faster; pictures are frames of them."""

    def __init__(self, settings: ToyboxClips) -> None:
        self.settings = settings
        self.num_clips = self.num_pictures = settings.num_clips

    def clips(self, indices: Sequence[int], fps: float | None, rng: np.random.Generator) -> Pixels:
        clips = self.settings
        scenes = [clip_scene(clips, index) for index in indices]
        size = {"num_frames": clips.num_frames, "height": clips.height, "width": clips.width}
        return to_model(render_scenes(scenes, fps=fps or clips.fps, **size))

    def pictures(self, indices: Sequence[int], rng: np.random.Generator) -> Pixels:
        video = self.clips(indices, None, rng)
        frames = torch.from_numpy(rng.integers(self.settings.num_frames, size=len(indices)))
        return rearrange(video, "b c t h w -> b t c h w")[torch.arange(len(indices)), frames].unsqueeze(2)


class Folder:
    """Videos and images of people. A clip is a window of a video, as long as is trained on, that begins anywhere in it.

    Args:
        size: the frames, height and width of a clip, and its usual rate.
        rates: the frames a second that will be asked for; a video is used at those that it is long and fast enough for.
            What is too short or too slow for all of them gives pictures, where there are no images.

    Raises:
        UserError: no video is long, fast and large enough.
    """

    def __init__(self, clips: Sequence[Clip], size: ToyboxClips, rates: Sequence[float]) -> None:
        self.size = size
        self.rates = sorted(rates or [size.fps])
        large = [clip for clip in clips if min(clip.height / size.height, clip.width / size.width) >= SMALLEST]
        self.videos = [clip for clip in large if self._suiting(clip)]
        self.images = [clip for clip in large if clip.is_image] or large
        self.num_clips, self.num_pictures = len(self.videos), len(self.images)
        if not self.videos:
            raise UserError(
                f"of {len(clips)} clips none can be trained on: needed are {size.num_frames} frames at "
                f"{' or '.join(f'{rate:g}' for rate in self.rates)} frames a second, and at least "
                f"{SMALLEST * size.width:g}x{SMALLEST * size.height:g} pixels"
            )

    def clips(self, indices: Sequence[int], fps: float | None, rng: np.random.Generator) -> Pixels:
        return self._each(self.videos, indices, lambda clip: self._window(clip, fps or self.size.fps, rng))

    def pictures(self, indices: Sequence[int], rng: np.random.Generator) -> Pixels:
        return self._each(self.images, indices, lambda clip: self._picture(clip, rng))

    def _each(self, clips: Sequence[Clip], indices: Sequence[int], read: Callable[[Clip], Tensor]) -> Pixels:
        """One for each number. A file that breaks off says so, and the next one takes its place."""
        made = []
        for index in indices:
            for offset in range(len(clips)):
                clip = clips[(index + offset) % len(clips)]
                try:
                    made.append(read(clip))
                    break
                except UserError as error:
                    print(f"passed over: {error}", file=sys.stderr, flush=True)
            else:
                raise UserError("no clip of the data can be read any more")
        return to_model(torch.stack(made))

    def _suiting(self, clip: Clip) -> list[float]:
        """The rates at which a clip can be read: its frames suffice, and not too many of them are repeated."""
        if clip.is_image:
            return []
        return [
            rate for rate in self.rates if clip.seconds * rate >= self.size.num_frames and clip.fps >= SLOWEST * rate
        ]

    def _window(self, clip: Clip, fps: float, rng: np.random.Generator) -> Tensor:
        suiting = self._suiting(clip)
        fps = fps if fps in suiting else suiting[-1]
        start = (clip.start or 0.0) + rng.random() * (clip.seconds - self.size.num_frames / fps)
        frames, _ = io.read(clip.source, start, None, fps, self.size.num_frames)
        if len(frames) < self.size.num_frames:
            raise UserError(f"{clip.source} is shorter than its header says")
        return self._fitted(frames)

    def _picture(self, clip: Clip, rng: np.random.Generator) -> Tensor:
        if clip.is_image:
            return self._fitted(io.read_image(clip.source)[None])
        start = (clip.start or 0.0) + rng.random() * max(0.0, clip.seconds - 1 / clip.fps)
        return self._fitted(io.read(clip.source, start, None, None, 1)[0])

    def _fitted(self, frames: np.ndarray) -> Tensor:
        return resize_crop(torch.from_numpy(frames.copy()), self.size.height, self.size.width)


def sources(settings: VAETraining) -> tuple[Source, Source]:
    """What the run learns from, and what it is measured on: of a folder, a tenth of its clips at most.

    Of a folder, all that cannot be used is told, with the reason.

    Raises:
        UserError: no such folder, or nothing in it that can be trained on.
    """
    if settings.data is None:
        return Toybox(settings.clips), Toybox(settings.validation)
    if not Path(settings.data).exists():
        raise UserError(f"there is no folder {settings.data}: give one of videos and images with data=FOLDER")
    listing = scan_folder(settings.data, captions=False, workers=settings.run.workers)
    for source, reason in listing.rejects:
        print(f"left out: {source}: {reason}", file=sys.stderr, flush=True)
    everything = Folder(sorted(listing.clips, key=lambda clip: clip.id), settings.clips, settings.frame_rates)
    num_held_out = min(settings.validation.num_clips, everything.num_clips // HELD_OUT)
    held_out = everything.videos[:num_held_out] or everything.videos[:1]
    taken = {clip.id for clip in everything.videos[:num_held_out]}
    learned = [clip for clip in listing.clips if clip.id not in taken]
    learned = sorted(learned, key=lambda clip: clip.id)[: settings.clips.num_clips]
    validation = Folder(held_out, settings.validation, settings.frame_rates)
    source = Folder(learned, settings.clips, settings.frame_rates)
    shared = "" if taken else "of them "
    print(
        f"data: {source.num_clips} videos to learn from, {validation.num_clips} {shared}to measure on, "
        f"{source.num_pictures} for single frames; {len(listing.rejects)} left out",
        file=sys.stderr,
        flush=True,
    )
    return source, validation
