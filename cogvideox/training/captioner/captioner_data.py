"""Batches of captioner training: rendered scenes with captions of all their facts, or clips of captioned folders."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from cogvideox.curation.captions.captioned_folder import CaptionedClip
from cogvideox.curation.captions.video_captioner.config import VisionConfig
from cogvideox.curation.captions.video_captioner.vision import prepare_frames
from cogvideox.curation.pipeline import sample_frames
from cogvideox.toybox.captions.caption import caption_scene
from cogvideox.toybox.render.renderer import render_scenes
from cogvideox.toybox.scenes.grammar import Scene
from cogvideox.toybox.scenes.sampler import sample_scene
from cogvideox.training.captioner.config import CaptionerTraining
from cogvideox.training.captioner.fact_head import sorted_scene
from cogvideox.training.rng import clip_indices, numpy_generator

CACHED_BYTES = 2**30
"""Bytes of frames of clips from folders that are kept in memory."""


class CaptionBatch(NamedTuple):
    """Frames of clips, padded to the longest, and their captions; scenes only of rendered clips."""

    frames: Float[Tensor, "b t 3 s s"]
    num_frames: Int[Tensor, " b"]
    captions: list[str]
    scenes: list[Scene]


def scene_batch(
    settings: CaptionerTraining, step: int, first_seed: int = 0, split: str = "training"
) -> tuple[list[Scene], UInt8[Tensor, "b t s s 3"], list[str]]:
    """Return new scenes of step `step` (0-based), their frames, and captions that name all facts.

    All clips of a batch have the same number of frames.
    """
    data, size, vision = settings.scenes, settings.run.batch_size, settings.model.vision
    rng = numpy_generator("caption", settings.run.seed + first_seed, step)
    num_frames = int(rng.choice(data.num_frames))
    seconds = (num_frames - 1) / vision.fps
    seeds = range(first_seed + step * size, first_seed + (step + 1) * size)
    scenes = [sorted_scene(sample_scene(seed, data.grammar, split=split, seconds=seconds)) for seed in seeds]  # pyrefly: ignore
    frames = render_scenes(scenes, num_frames=num_frames, height=vision.size, width=vision.size, fps=vision.fps)
    captions = [
        caption_scene(scene, str(rng.choice(data.caption_styles)), int(rng.integers(2**31)), complete=True)
        for scene in scenes
    ]
    return scenes, frames, captions


def rendered_batch(settings: CaptionerTraining, step: int) -> CaptionBatch:
    """Make the batch of step `step` (0-based) of rendered scenes."""
    scenes, frames, captions = scene_batch(settings, step)
    images = torch.stack([prepare_frames(clip, settings.model.vision) for clip in frames])
    return CaptionBatch(images, torch.full((len(images),), images.shape[1]), captions, scenes)


def folder_batch(settings: CaptionerTraining, clips: Sequence[CaptionedClip], step: int) -> CaptionBatch:
    """Make the batch of step `step` (0-based) of clips from folders, shuffled in each epoch."""
    indices = clip_indices(settings.run.seed, step, settings.run.batch_size, len(clips))
    vision = settings.model.vision
    frames = [prepare_frames(read_clip(clips[index], vision), vision) for index in indices]
    lengths = torch.tensor([len(images) for images in frames])
    return CaptionBatch(pad_sequence(frames, batch_first=True), lengths, [clips[i].caption for i in indices], [])


def read_clip(clip: CaptionedClip, config: VisionConfig) -> UInt8[Tensor, "t h w 3"]:
    """Return the sampled frames of a clip; the frames of recently read clips are kept in memory.

    Raises:
        UserError: the clip cannot be decoded.
    """
    row = {name: clip.row[name] for name in ("path", "start", "end", "is_image")}

    def read() -> UInt8[Tensor, "t h w 3"]:
        return torch.from_numpy(np.ascontiguousarray(sample_frames(row, [config.sampling])[0].frames))

    return _recent.get((*row.values(), config), read)


class FrameCache:
    """The frames of the most recently used clips, up to a number of bytes. Safe for several threads."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes, self.num_bytes = max_bytes, 0
        self._frames: OrderedDict[Hashable, Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, read: Callable[[], Tensor]) -> Tensor:
        """Return the frames of a key, which are read if they are not in memory."""
        with self._lock:
            if key in self._frames:
                self._frames.move_to_end(key)
                return self._frames[key]
        frames = read()
        with self._lock:
            if key not in self._frames:
                self._frames[key] = frames
                self.num_bytes += frames.nbytes
            while self.num_bytes > self.max_bytes:
                self.num_bytes -= self._frames.popitem(last=False)[1].nbytes
        return frames


_recent = FrameCache(CACHED_BYTES)
