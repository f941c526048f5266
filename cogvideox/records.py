"""The record types that travel between packages: `Clip`, `LatentSample`, `PackedBatch`, `Video`, `Score`."""

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
    Tensor = Any  # importing torch takes a second, and shapes and dtypes can be checked without it


@dataclass(frozen=True)
class Clip:
    """A part of a video file, or an image, with its metadata. The pixels stay in the file.

    id: hash of the file's bytes and of start and end.
    source: the file.
    start, end: in seconds from the first frame; None is the beginning and the end of the file.
    fps: average frame rate of the file in frames per second; 0 for an image.
    width, height: of the displayed frame, in pixels.
    num_frames: frames of the clip, as the file's header counts them; 1 is an image.
    scores: measurements and labels by name, for filter policies.
    provenance: where the clip comes from, for people.
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
        """Whether the clip is a single frame."""
        return self.num_frames == 1

    @property
    def seconds(self) -> float:
        """Duration in seconds; 0 for an image."""
        return 0.0 if self.is_image else self.num_frames / self.fps


@dataclass(frozen=True, eq=False)
class LatentSample:
    """A clip and its caption, encoded by the VAE and the text encoder.

    Axes: c latent channels, t h w latent frames, height and width, n tokens, d text width, k noise samples.

    mean, logvar: posterior of the latents, unscaled.
    text: caption embedding, padded to the model's text length.
    image_mean, image_logvar: posterior of the first frame alone, encoded k times with different noise, for
        image-to-video models; None if it was not encoded.
    fps: frame rate that the clip was read at, in frames per second; 0 for an image.
    source_size: height and width of the file's frames, in pixels.
    crop: top, left, height and width of the part that was encoded, in pixels of the file.
    vae, text_encoder: hashes of the weights that encoded the clip.
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
    """A packed row of a training batch: clips of any size in one sequence, each attending only to itself.

    Axes: s clips, c latent channels, t h w latent frames, height and width (different for each clip), n text tokens,
    d text width.

    latents, noise: of each clip, the clean latents at the model's scale and the noise to add.
    text: caption embeddings; the null prompt's where the caption was dropped.
    timestep: of each clip.
    image: for image-to-video models, of each clip the latents of its first frame and zeros for the other frames; zeros
        only where the image was dropped.
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
        """Copy to a device, asynchronously from pinned memory."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "PackedBatch":
        """Copy to pinned memory."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, function: Callable[[Any], Any]) -> "PackedBatch":
        latents, noise = (tuple(map(function, tensors)) for tensors in (self.latents, self.noise))
        image = None if self.image is None else tuple(map(function, self.image))
        return PackedBatch(latents, noise, function(self.text), function(self.timestep), self.clip_ids, image)


@dataclass(frozen=True, eq=False)
class Video:
    """RGB frames, uint8 or float32 in 0..1.

    fps: frame rate in frames per second.
    metadata: JSON values that describe the video; for a generated one, everything that reproduces it.
    """

    frames: UInt8[np.ndarray, "t h w 3"] | Float32[np.ndarray, "t h w 3"] = field(repr=False)
    fps: float
    metadata: dict[str, Any] = field(default_factory=dict, repr=False)

    def save(self, path: str | Path) -> None:
        """Write the video atomically, in the format of the suffix of `path`.

        `.mp4`: H.264 that every player supports. `.gif`: an endless loop. `.png`: all frames on one sheet, in reading
        order; a single frame as it is. Metadata is written as `x.json` beside `x.mp4`, replacing that of an earlier
        video, but no other file.

        Raises:
            UserError: an unsupported suffix, no permission, a full disk, an unrelated file `x.json`.
        """
        from cogvideox.video import io  # importing PyAV takes a moment, and most videos are never saved

        path = Path(path)
        if not self.metadata:
            io.write(path, self.frames, self.fps)
            return
        sidecar = path.with_suffix(".json")
        if sidecar == path:
            raise UserError(
                f"cannot write {path}: the suffix .json is for metadata; use one of {', '.join(io.FORMATS)}"
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
        """Read a part of a video file at a constant frame rate. Arguments and errors are those of `video.io.read`."""
        from cogvideox.video import io

        frames, rate = io.read(path, start, end, fps, max_frames)
        return cls(frames, rate)


def check_sidecar(video: Path, names: Iterable[str]) -> None:
    """Check that metadata can be written beside a video: there is no `x.json`, or it is metadata, too.

    Args:
        names: keys of the metadata. At least half of the keys of an existing file have to be among them, because those
            of other tasks and versions differ a little.

    Raises:
        UserError: the existing file is something else.
    """
    sidecar = video.with_suffix(".json")
    try:
        keys = json.loads(sidecar.read_text(encoding="utf-8")).keys()
        ours = 2 * len(keys & set(names)) >= len(keys)
    except (PermissionError, ValueError, AttributeError):
        ours = False
    except OSError:  # there is none; if it cannot be written either, writing it raises the error
        ours = True
    if not ours:
        raise UserError(f"cannot write {video}: {sidecar} exists and is not metadata of a video; choose another name")


@dataclass(frozen=True)
class Score:
    """A measured value and how to measure it again.

    interval: confidence interval (95 % unless the protocol says otherwise), or None.
    protocol: how it was measured, as JSON values.
    """

    metric: str
    value: float
    interval: tuple[float, float] | None = None
    protocol: dict[str, Any] = field(default_factory=dict)
