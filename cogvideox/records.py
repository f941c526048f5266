"""The nouns that travel between the rooms of the package."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import BFloat16, Float, Float32, Int, UInt8

from cogvideox.atomic_io import atomic_write
from cogvideox.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor
else:
    Tensor = Any  # torch takes a second to import, and shapes and types can be checked without it


@dataclass(frozen=True)
class Clip:
    """A piece of a video file, or an image, and what is known about it. The pixels stay in the file.

    id: a hash of the content: of the file's bytes and, of a piece, of where it begins and ends.
    source: the file.
    start, end: seconds from the first frame; None is the beginning, or the end.
    fps: frames a second of the file on average; of an image 0.
    width, height: pixels of a frame as it is shown.
    num_frames: how many frames of the file the piece has, as its header counts them; 1 is an image.
    scores: what was measured or noted, by its name, for a policy to choose by.
    provenance: where this comes from, for people.
    """

    id: str
    source: Path
    start: float | None
    end: float | None
    fps: float
    width: int
    height: int
    num_frames: int
    caption: str
    scores: Mapping[str, float | str] = field(default_factory=dict)
    provenance: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_image(self) -> bool:
        """Whether it has one frame only."""
        return self.num_frames == 1

    @property
    def seconds(self) -> float:
        """How long it lasts; an image 0."""
        return 0.0 if self.is_image else self.num_frames / self.fps


@dataclass(frozen=True, eq=False)
class LatentSample:
    """What the VAE and the text encoder make of a clip and its caption.

    Axes: c latent channels, t h w latent frames, height and width, n tokens, d their width, k copies.

    mean, logvar: the posterior of the latents, unscaled.
    text: the caption's features at the fixed length of the model, padding included.
    image_mean, image_logvar: the posterior of the first frame alone, k times under noise of its own, for models that
        begin with an image; None where it was not encoded.
    fps: frames a second that the clip was read at; of an image 0.
    source_size: height and width of the file's frames, in pixels.
    crop: top, left, height and width of what is seen of them, in pixels of the file.
    vae, text_encoder: hashes of the weights that made this.
    """

    clip_id: str
    mean: BFloat16[Tensor, "c t h w"] = field(repr=False)
    logvar: BFloat16[Tensor, "c t h w"] = field(repr=False)
    text: BFloat16[Tensor, "n d"] = field(repr=False)
    fps: float
    source_size: tuple[int, int]
    crop: tuple[int, int, int, int]
    vae: str
    text_encoder: str
    image_mean: BFloat16[Tensor, "c k h w"] | None = field(default=None, repr=False)
    image_logvar: BFloat16[Tensor, "c k h w"] | None = field(default=None, repr=False)


@dataclass(frozen=True, eq=False)
class PackedBatch:
    """One row of a training step: clips of any size side by side, of which each attends to itself alone.

    Axes: c latent channels, t h w latent frames, height and width, of every clip its own; s clips, n text tokens of
    each, d their width.

    latents, noise: of each clip, the clean latents at the model's scale and the noise that is to be added.
    text: features of each clip's caption, or of the null text where the caption was dropped.
    timestep: of each clip.
    image: for a model that takes one, of each clip the latents of the image that it begins with, and zeros in the later
        frames; zeros alone where the image was dropped.
    """

    latents: tuple[Float[Tensor, "c _t _h _w"], ...]
    noise: tuple[Float[Tensor, "c _t _h _w"], ...]
    text: Float[Tensor, "s n d"]
    timestep: Int[Tensor, " s"]
    clip_ids: tuple[str, ...]
    image: tuple[Float[Tensor, "c _t _h _w"], ...] | None = None

    def __len__(self) -> int:
        return len(self.clip_ids)

    def to(self, device: Any) -> "PackedBatch":
        """The same on a device; from pinned memory, without waiting for it."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "PackedBatch":
        """The same in pinned memory."""
        return self._each(lambda tensor: tensor.pin_memory())

    def _each(self, move: Callable[[Any], Any]) -> "PackedBatch":
        latents, noise = (tuple(map(move, tensors)) for tensors in (self.latents, self.noise))
        image = None if self.image is None else tuple(map(move, self.image))
        return PackedBatch(latents, noise, move(self.text), move(self.timestep), self.clip_ids, image)


@dataclass(frozen=True, eq=False)
class Video:
    """Frames in RGB, as uint8 or as float32 in 0..1, at `fps` frames a second.

    `metadata` says how the video came to be, as JSON values; of a generated one it is all that makes it again.
    """

    frames: UInt8[np.ndarray, "t h w 3"] | Float32[np.ndarray, "t h w 3"] = field(repr=False)
    fps: float
    metadata: dict[str, Any] = field(default_factory=dict, repr=False)

    def save(self, path: str | Path) -> None:
        """Writes the video in the format that the name of `path` ends in, whole or not at all.

        `.mp4`: H.264 that every player opens. `.gif`: an endless loop. `.png`: all frames on one sheet, in reading
        order; a single frame is that picture, pixel by pixel. With metadata, `x.json` is written beside `x.mp4`, over
        that of an earlier video but over nothing else.

        Raises:
            UserError: another ending, no permission, a full disk, an `x.json` that is something else.
        """
        from cogvideox.video import io  # PyAV takes a moment to import, and most videos are never saved

        path = Path(path)
        if not self.metadata:
            io.write(path, self.frames, self.fps)
            return
        sidecar = path.with_suffix(".json")
        if sidecar == path:
            raise UserError(
                f"cannot write {path}: that name is for the metadata; a video ends in {', '.join(io.FORMATS)}"
            )
        check_sidecar(path, self.metadata)
        with atomic_write(sidecar) as temporary:
            temporary.write_text(json.dumps(self.metadata, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            io.write(path, self.frames, self.fps)

    @classmethod
    def load(
        cls,
        path: str | Path,
        start: float | None = None,
        end: float | None = None,
        fps: float | None = None,
        max_frames: int | None = None,
    ) -> "Video":
        """Reads a window of a video file at an even rate; see `video.io.read`, whose arguments and errors these are."""
        from cogvideox.video import io

        frames, rate = io.read(path, start, end, fps, max_frames)
        return cls(frames, rate)


def check_sidecar(video: Path, names: Iterable[str]) -> None:
    """Whether metadata of these names may be written beside a video: there is no `x.json`, or it holds mostly what such
    metadata hold; other tasks and versions say some things more or less.

    Raises:
        UserError: it is something else.
    """
    sidecar = video.with_suffix(".json")
    try:
        keys = json.loads(sidecar.read_text(encoding="utf-8")).keys()
        ours = 2 * len(keys & set(names)) >= len(keys)
    except (PermissionError, ValueError, AttributeError):
        ours = False
    except OSError:  # there is none; or there can be none, which writing it puts into a sentence
        ours = True
    if not ours:
        raise UserError(f"cannot write {video}: {sidecar}, which is to tell how it was made, is something else")


@dataclass(frozen=True)
class Score:
    """One measured number, with all that it takes to measure it again.

    interval: within what bounds the value is known (95 %, unless the protocol says otherwise), or None.
    protocol: how it was measured, as JSON values.
    """

    metric: str
    value: float
    interval: tuple[float, float] | None = None
    protocol: dict[str, Any] = field(default_factory=dict)
