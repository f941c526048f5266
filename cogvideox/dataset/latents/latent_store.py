"""Latent store: encoded clips as tensors in safetensors shards, and an index that locates them.

    index.parquet                 one row per clip and per reject; the settings are in its metadata
    latents-<hash>.safetensors    <key>.mean and <key>.logvar [c t h w] of clips, bfloat16, unscaled
    images-<hash>.safetensors     <key>.mean and <key>.logvar [c k h w] of first frames, encoded k times with noise
    text-<hash>.safetensors       <key> [n d] of captions, bfloat16
    parts-<hash>/                 index rows of finished jobs, while a job array is running

Shards are append-only, written atomically, and named by a hash of their keys. A key is a hash of everything that a
tensor depends on (`cache_keys`), so encoding more clips into the store does not invalidate its shards.
"""

import json
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import BFloat16, Int
from pyarrow import parquet
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cogvideox import config
from cogvideox.atomic_io import atomic_write, cannot_read
from cogvideox.dataset.cache_keys import hash_values, text_key
from cogvideox.dataset.config import StoreSettings
from cogvideox.errors import UserError
from cogvideox.geometry import latent_shape
from cogvideox.pretrained.model_settings import NullText
from cogvideox.records import LatentSample
from cogvideox.state_dict.safetensors_io import save_state
from cogvideox.untrusted.files import check_lfs_pointer, parse_json, reading
from cogvideox.untrusted.text_encoding import check_utf8_path, is_unicode, printable

INDEX = "index.parquet"
MAX_OPEN_SHARDS = 64  # maximum number of shards that a reader keeps memory-mapped

_SCORE_PREFIX = "score."
_SETTINGS_KEY = b"cogvideox"


@dataclass(frozen=True)
class IndexRow:
    """One row of the index: an encoded clip window, or a reject with its reason in `error`.

    Attributes:
        fps, num_frames, height, width: values of the encoded window.
        source_fps, source_height, source_width: values of the file.
        start, end: time range of the window in the file, in seconds.
        crop: top, left, height and width of the visible region, in pixels of the source frames.
        latents, images, text: cache keys of the tensors. `*_file` are the names of their shards. "" if there are no
            images.
        scores: scores and labels for filter policies.
    """

    source: str
    error: str | None = None
    clip_id: str = ""
    caption: str = ""
    start: float | None = None
    end: float | None = None
    fps: float = 0.0
    num_frames: int = 0
    height: int = 0
    width: int = 0
    source_fps: float = 0.0
    source_height: int = 0
    source_width: int = 0
    crop: tuple[int, int, int, int] = (0, 0, 0, 0)
    latents: str = ""
    latents_file: str = ""
    text: str = ""
    text_file: str = ""
    images: str = ""
    images_file: str = ""
    scores: Mapping[str, float | str] = field(default_factory=dict)

    def sort_key(self) -> tuple[str, float, str]:
        """Return the sort key of the index: file and time, regardless of the job that wrote the row."""
        return self.source, self.start or 0.0, self.caption


_COLUMN_TYPES = {
    "start": pa.float64(),
    "end": pa.float64(),
    "fps": pa.float64(),
    "source_fps": pa.float64(),
    "num_frames": pa.int32(),
    "height": pa.int32(),
    "width": pa.int32(),
    "source_height": pa.int32(),
    "source_width": pa.int32(),
    "crop": pa.list_(pa.int32()),
}


class LatentStore:
    """Random access to the encoded clips of a store, ordered by file. Rejects are not included.

    Attributes:
        settings: encoding settings.
        rows: the index row of each clip.
        rejects: (file, reason) of clips that could not be encoded.
        columns: [clips] arrays by name, for filter policies: num_frames, height, width, fps, source_fps and every
            score. Missing numbers are NaN, missing strings "".

    Raises:
        UserError: the folder is not a latent store.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.settings, rows = read_index(self.folder / INDEX)
        self.rows = [row for row in rows if row.error is None]
        self.rejects = [(row.source, row.error) for row in rows if row.error is not None]
        self.columns = _columns(self.rows)
        self._open: OrderedDict[str, Any] = OrderedDict()

    def __len__(self) -> int:
        return len(self.rows)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}  # each worker maps the files itself

    @property
    def shapes(self) -> Int[np.ndarray, "n 3"]:
        """Latent frames, latent height and latent width of each clip."""
        ratio = self.settings.ratio
        sizes = zip(*(self.columns[name].tolist() for name in ("num_frames", "height", "width")))
        return np.array([latent_shape(*size, ratio=ratio) for size in sizes], dtype=int).reshape(-1, 3)

    def __getitem__(self, index: int) -> LatentSample:
        """Read one clip from disk.

        Raises:
            UserError: the clip's shard is missing or damaged.
        """
        row = self.rows[index]
        return LatentSample(
            clip_id=row.clip_id,
            mean=self._tensor(row.latents_file, f"{row.latents}.mean"),
            logvar=self._tensor(row.latents_file, f"{row.latents}.logvar"),
            text=self._tensor(row.text_file, row.text),
            fps=row.fps,
            source_size=(row.source_height, row.source_width),
            crop=row.crop,
            vae=self.settings.vae,
            text_encoder=self.settings.text_encoder,
            image_mean=self._tensor(row.images_file, f"{row.images}.mean") if row.images else None,
            image_logvar=self._tensor(row.images_file, f"{row.images}.logvar") if row.images else None,
        )

    def null_text(self, kind: NullText) -> BFloat16[Tensor, "n d"]:
        """Return the unconditional prompt embedding, which replaces dropped captions.

        Raises:
            UserError: it is the embedding of the empty caption, and the store does not contain it.
        """
        settings = self.settings
        if kind == "zero":
            return torch.zeros(settings.text_length, settings.text_width, dtype=torch.bfloat16)
        name = text_key("", settings.text_length, settings.text_encoder)
        location = find_tensors(self.folder, "text").get(name)
        if location is None:
            raise UserError(f"{self.folder} has no embedding of the empty caption: run `cogvideox encode` on it again")
        return self._tensor(location.file, name)

    def _tensor(self, file: str, name: str) -> Tensor:
        shard = self._open.pop(file, None)
        with reading(self.folder / file, "damaged; delete it and run `cogvideox encode` again"):
            shard = shard or safe_open(self.folder / file, framework="pt")
            tensor = shard.get_tensor(name)
        self._open[file] = shard  # the most recently used shard is last
        if len(self._open) > MAX_OPEN_SHARDS:
            self._open.popitem(last=False)
        return tensor


def save_shard(folder: Path, kind: str, tensors: Mapping[str, Tensor]) -> str:
    """Write a shard of a kind ("latents", "images", "text") and return its file name.

    Raises:
        UserError: the file cannot be written.
    """
    name = f"{kind}-{hash_values(*sorted(tensors))[:16]}.safetensors"
    save_state(tensors, folder / name)
    return name


@dataclass(frozen=True)
class TensorLocation:
    """A tensor's shard and shape: latents [c t h w], first frames [c k h w], text [n d]."""

    file: str
    shape: tuple[int, ...]


def find_tensors(folder: Path, kind: str = "*") -> dict[str, TensorLocation]:
    """Return the locations of all stored tensors of a kind, by cache key. Damaged shards are skipped.

    Raises:
        UserError: a shard cannot be read.
    """
    locations = {}
    for file in sorted(folder.glob(f"{kind}-*.safetensors")):
        try:
            with safe_open(file, framework="pt") as shard:
                shapes = {name.partition(".")[0]: shard.get_slice(name).get_shape() for name in shard.keys()}  # noqa: SIM118
        except SafetensorError as error:
            check_lfs_pointer(file, error)
            continue  # damaged: its tensors will be encoded again
        except OSError as error:
            raise cannot_read(file, error) from error
        locations |= {key: TensorLocation(file.name, tuple(shape)) for key, shape in shapes.items()}
    return locations


def write_index(path: Path, settings: StoreSettings, rows: Iterable[IndexRow]) -> None:
    """Write an index file.

    Raises:
        UserError: the file cannot be written.
    """
    rows = list(rows)
    names = [column.name for column in fields(IndexRow) if column.name != "scores"]
    columns = {
        name: pa.array([_storable(getattr(row, name)) for row in rows], _COLUMN_TYPES.get(name, pa.string()))
        for name in names
    }
    for name in sorted({name for row in rows for name in row.scores}):
        values = [row.scores.get(name) for row in rows]
        if any(isinstance(value, str) for value in values):
            values = [value if value is None else _storable(str(value)) for value in values]
        columns[_SCORE_PREFIX + name] = pa.array(values)
    table = pa.table(columns).replace_schema_metadata({_SETTINGS_KEY: json.dumps(config.to_dict(settings))})
    with atomic_write(path) as temporary:
        parquet.write_table(table, temporary)


def _storable(value: Any) -> Any:
    """Escape bytes of strings, such as file names, that are not valid UTF-8."""
    return value if not isinstance(value, str) or is_unicode(value) else printable(value)


def read_settings(path: Path) -> StoreSettings:
    """Read the settings of an index without its rows. Raises `UserError` like `read_index`."""
    with _index_errors(path):
        return _settings(parquet.read_schema(path), path)


def read_index(path: Path) -> tuple[StoreSettings, list[IndexRow]]:
    """Read an index file.

    Raises:
        UserError: the file does not exist or is not an index.
    """
    with _index_errors(path):
        table = parquet.read_table(path)
        settings = _settings(table.schema, path)
    names = [column.name for column in fields(IndexRow) if column.name in table.column_names]
    score_columns = [name for name in table.column_names if name.startswith(_SCORE_PREFIX)]
    rows = []
    for row in table.to_pylist():
        scores = {name.removeprefix(_SCORE_PREFIX): row[name] for name in score_columns if row[name] is not None}
        rows.append(IndexRow(**{name: row[name] for name in names} | {"crop": tuple(row["crop"])}, scores=scores))
    return settings, rows


def _settings(schema: pa.Schema, path: Path) -> StoreSettings:
    stored = parse_json(schema.metadata[_SETTINGS_KEY])
    stored.pop("null_text", None)  # in stores of version 0.1.0; training now chooses it
    return config.from_dict(StoreSettings, stored, where=str(path))


@contextmanager
def _index_errors(path: Path) -> Iterator[None]:
    """Convert errors of reading an index to `UserError`."""
    check_utf8_path(path)
    with reading(path, "damaged or not the index of a latent store"):
        if not path.exists():
            raise UserError(
                f"{path.parent} is not a latent store: it has no {path.name}; create one with `cogvideox encode`"
            )
        yield


def _columns(rows: list[IndexRow]) -> dict[str, np.ndarray]:
    columns = {
        name: np.array([getattr(row, name) for row in rows])
        for name in ("num_frames", "height", "width", "fps", "source_fps")
    }
    return columns | score_columns([row.scores for row in rows])


def score_columns(scores: Sequence[Mapping[str, float | str]]) -> dict[str, np.ndarray]:
    """Return the scores of clips as [clips] arrays by name. Missing numbers are NaN, missing strings ""."""
    columns = {}
    for name in sorted({name for row in scores for name in row}):
        values = [row.get(name) for row in scores]
        missing = "" if any(isinstance(value, str) for value in values) else np.nan
        columns[name] = np.array([missing if value is None else value for value in values])
    return columns
