"""Record types shared between packages: `Clip`, `LatentSample`, `PackedBatch`, `Video`, `Score`."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import BFloat16, Float, Float32, Int, UInt8

from cogvideox.atomic_io import atomic_write
from cogvideox.errors import UserError
from cogvideox.untrusted.files import parse_json, read_text
from cogvideox.untrusted.text_encoding import dump_json

if TYPE_CHECKING:
    from torch import Tensor
else:
    Tensor = Any  # importing torch takes a second, and type checks do not need it


@dataclass(frozen=True)
class Clip:
    """A segment of a video file, or an image: metadata without pixels.

    Attributes:
        id: hash of the file's bytes, start and end.
        source: path of the file.
        start, end: seconds from the first frame; None is the beginning or end of the file.
        fps: average frame rate of the file in frames per second; 0 for an image.
        width, height: size of the displayed frame, in pixels.
        num_frames: number of frames in the clip according to the file's header; 1 for an image.
        scores: measurements and labels by name, for filter policies.
        provenance: description of the origin of the clip.
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

    Attributes:
        mean, logvar: posterior of the latents, unscaled.
        text: caption embedding, padded to the model's text length.
        image_mean, image_logvar: posterior of the first frame alone, encoded k times with different noise, for
            image-to-video models; None if it was not encoded.
        fps: frame rate of the clip after resampling; 0 for an image.
        source_size: height and width of the file's frames, in pixels.
        crop: top, left, height and width of the encoded region, in source pixels.
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
    """A packed sequence of a training batch: clips of any size, each attending only to itself.

    Axes: s clips, c latent channels, t h w latent frames, height and width (different for each clip), n text tokens,
    d text width.

    Attributes:
        latents, noise: scaled clean latents of each clip, and noise to add to them.
        text: embedding of each caption, or of the null prompt if the caption was dropped.
        timestep: timestep of each clip.
        image: latents of the first frame of each clip, padded with zeros to all frames, for image-to-video models;
            zeros if the image was dropped.
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

    Attributes:
        fps: frame rate in frames per second.
        metadata: JSON values that describe the video; for a generated video, everything needed to reproduce it.
    """

    frames: UInt8[np.ndarray, "t h w 3"] | Float32[np.ndarray, "t h w 3"] = field(repr=False)
    fps: float
    metadata: dict[str, Any] = field(default_factory=dict, repr=False)

    def save(self, path: str | Path) -> None:
        """Write the video atomically, in the format given by the suffix of `path`.

        `.mp4`: widely supported H.264. `.gif`: an endless loop. `.png`: a contact sheet of all frames in reading order,
        or the frame itself if there is only one. Metadata is written to `x.json` next to `x.mp4` (see `sidecar_path`);
        an existing metadata file is overwritten, but no other file.

        Raises:
            UserError: unsupported suffix, no permission, full disk, or an unrelated file named `x.json`.
        """
        from cogvideox.video import io  # importing PyAV is slow

        path = Path(path)
        if not self.metadata:
            io.write(path, self.frames, self.fps)
            return
        sidecar = sidecar_path(path)
        if path.suffix == ".json":
            raise UserError(
                f"cannot write {path}: the suffix .json is for metadata; use one of {', '.join(io.FORMATS)}"
            )
        check_sidecar(path, self.metadata)
        with atomic_write(sidecar) as temporary:
            temporary.write_text(dump_json(self.metadata) + "\n", encoding="utf-8")
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
        """Read a segment of a video file at a constant frame rate. See `video.io.read` for arguments and errors."""
        from cogvideox.video import io

        frames, rate = io.read(path, start, end, fps, max_frames)
        return cls(frames, rate)


def sidecar_path(video: Path) -> Path:
    """Return the path of a video's metadata: `x.json`, or `x.gif.json` beside another file of that name (`x.mp4`).

    The other file may have no metadata, such as a photo. The path does not change when the video is written.
    """
    from cogvideox.video.io import FORMATS  # importing PyAV is slow

    shared, full_name = video.with_suffix(".json"), video.with_name(f"{video.name}.json")
    exists = os.path.exists  # unlike Path.exists, it accepts names that are too long
    if exists(full_name):
        return full_name
    others = (video.with_suffix(suffix) for suffix in FORMATS if suffix != video.suffix)
    owners = [other for other in others if exists(other) and not exists(other.with_name(f"{other.name}.json"))]
    return full_name if owners else shared


def check_sidecar(video: Path, names: Iterable[str]) -> None:
    """Check that metadata can be written next to a video: `x.json` does not exist, or is a metadata file.

    Args:
        names: keys of the metadata. An existing file is a metadata file if they include at least half of its keys;
            keys differ slightly between tasks and versions.

    Raises:
        UserError: the existing file is not a metadata file.
    """
    sidecar = sidecar_path(video)
    try:
        keys = parse_json(read_text(sidecar)).keys()
        is_metadata = 2 * len(keys & set(names)) >= len(keys)
    except (PermissionError, ValueError, AttributeError):
        is_metadata = False
    except OSError:  # missing or unreadable; if it cannot be written either, writing it raises the error
        is_metadata = True
    if not is_metadata:
        raise UserError(f"cannot write {video}: {sidecar} exists and is not video metadata; choose a different name")


@dataclass(frozen=True)
class Score:
    """A measured value and the protocol to reproduce it.

    Attributes:
        interval: confidence interval (95 % unless the protocol says otherwise), or None.
        protocol: measurement settings, as JSON values.
    """

    metric: str
    value: float
    interval: tuple[float, float] | None = None
    protocol: dict[str, Any] = field(default_factory=dict)
