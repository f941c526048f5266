"""A store of encoded clips: tensors in safetensors shards, one table that says where each clip's are.

    index.parquet              a row for every clip and every reject; the settings are in its metadata
    latents-<hash>.safetensors    <key>.mean and <key>.logvar [c t h w] of some clips, bfloat16, unscaled
        images-<hash>.safetensors     the same [c k h w] of their first frames alone, k times under noise
    text-<hash>.safetensors       <key> [n d] of some captions, bfloat16
    parts-<hash>/                 while several jobs work: the rows of those that are done

Shards are only ever added, each written whole, and named by the keys they hold. A key is a hash of all that a tensor
depends on, so what is in a shard stays right whatever else is encoded into the store.
"""

import json
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
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
from cogvideox.dataset.config import StoreSettings
from cogvideox.dataset.latents.cache_keys import key, text_key
from cogvideox.errors import UserError
from cogvideox.geometry import latent_shape
from cogvideox.records import LatentSample
from cogvideox.state_dict.safetensors_io import save_state

INDEX = "index.parquet"
NUM_OPEN = 64  # shards that a reader keeps mapped

_SCORE = "score."
_SETTINGS = b"cogvideox"


@dataclass(frozen=True)
class Row:
    """One line of the index: a clip as it was encoded or, with an `error` and little else, why it was not.

    fps, num_frames, height, width: of what the VAE saw. source_*: of the file. start, end: seconds in it.
    latents, images, text: keys of its tensors; `*_file` the shards that hold them. Without images, "".
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

    def place(self) -> tuple[str, float, str]:
        """Where it stands in the index: rows are in the order of their files and times, whoever made them."""
        return self.source, self.start or 0.0, self.caption


_KINDS = {
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
    """The encoded clips of a store, by their number, in the order of their files. Rejects are no clips.

    Attributes:
        settings: with what it was made.
        rows: what is known of each clip.
        rejects: (file, reason) of what could not be encoded.
        columns: [clips] arrays by name, to choose by: num_frames, height, width, fps and source_fps, and every score;
            a score that a clip lacks is NaN, or "" among texts.
        shapes: latent frames, height and width of each clip, [clips 3].

    Raises:
        UserError: the folder is no store.
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
        return {**self.__dict__, "_open": OrderedDict()}  # a worker maps the files itself

    @property
    def shapes(self) -> Int[np.ndarray, "n 3"]:
        """See the class."""
        ratio = self.settings.ratio
        sizes = zip(*(self.columns[name].tolist() for name in ("num_frames", "height", "width")))
        return np.array([latent_shape(*size, ratio=ratio) for size in sizes], dtype=int).reshape(-1, 3)

    def __getitem__(self, index: int) -> LatentSample:
        """One clip, from the disk. Raises UserError when its shard is missing or damaged."""
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

    def null_text(self) -> BFloat16[Tensor, "n d"]:
        """What stands in the place of a caption that is dropped."""
        settings = self.settings
        if settings.null_text == "zero":
            return torch.zeros(settings.text_length, settings.text_width, dtype=torch.bfloat16)
        name = text_key("", settings.text_length, settings.text_encoder)
        placed = known(self.folder, "text").get(name)
        if placed is None:
            raise UserError(f"{self.folder} lacks the features of the empty caption: encode into it again")
        return self._tensor(placed.file, name)

    def _tensor(self, file: str, name: str) -> Tensor:
        shard = self._open.pop(file, None)
        try:
            shard = shard or safe_open(self.folder / file, framework="pt")
            tensor = shard.get_tensor(name)
        except OSError as error:
            raise cannot_read(self.folder / file, error) from error
        except SafetensorError as error:
            raise UserError(f"cannot read {self.folder / file}: it is damaged; remove it and encode again") from error
        self._open[file] = shard  # the newest stands last
        if len(self._open) > NUM_OPEN:
            self._open.popitem(last=False)
        return tensor


def save_shard(folder: Path, kind: str, tensors: Mapping[str, Tensor]) -> str:
    """Writes a shard of some kind ("latents", "images", "text") and returns its name.

    Raises:
        UserError: the disk refuses.
    """
    name = f"{kind}-{key(*sorted(tensors))[:16]}.safetensors"
    save_state(tensors, folder / name)
    return name


@dataclass(frozen=True)
class Placed:
    """The shard in which a tensor lies, and its shape: [c t h w] of latents, [c k h w] of images, [n d] of a text."""

    file: str
    shape: tuple[int, ...]


def known(folder: Path, kind: str) -> dict[str, Placed]:
    """What all whole shards of that kind hold, by its key."""
    found = {}
    for file in sorted(folder.glob(f"{kind}-*.safetensors")):
        try:
            with safe_open(file, framework="pt") as shard:
                shapes = {name.partition(".")[0]: shard.get_slice(name).get_shape() for name in shard.keys()}  # noqa: SIM118
        except SafetensorError:
            continue  # damaged: what it held is encoded again
        except OSError as error:
            raise cannot_read(file, error) from error
        found |= {key: Placed(file.name, tuple(shape)) for key, shape in shapes.items()}
    return found


def write_index(path: Path, settings: StoreSettings, rows: Iterable[Row]) -> None:
    """Writes rows as a table. Raises UserError when the disk refuses."""
    rows = list(rows)
    names = [one.name for one in fields(Row) if one.name != "scores"]
    columns = {
        name: pa.array([_storable(getattr(row, name)) for row in rows], _KINDS.get(name, pa.string())) for name in names
    }
    for name in sorted({name for row in rows for name in row.scores}):
        values = [row.scores.get(name) for row in rows]
        if any(isinstance(value, str) for value in values):
            values = [value if value is None else _storable(str(value)) for value in values]
        columns[_SCORE + name] = pa.array(values)
    table = pa.table(columns).replace_schema_metadata({_SETTINGS: json.dumps(config.to_dict(settings))})
    with atomic_write(path) as temporary:
        parquet.write_table(table, temporary)


def _storable(value: Any) -> Any:
    """A text without what is no Unicode, as names of files and captions of JSON may hold it."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def read_settings(path: Path) -> StoreSettings:
    """The settings of an index, without its rows, which may be many. Raises UserError as `read_index`."""
    with _reading(path):
        return _settings(parquet.read_schema(path), path)


def read_index(path: Path) -> tuple[StoreSettings, list[Row]]:
    """What `write_index` wrote.

    Raises:
        UserError: there is no such file, or it is something else.
    """
    with _reading(path):
        table = parquet.read_table(path)
        settings = _settings(table.schema, path)
    own = [one.name for one in fields(Row) if one.name in table.column_names]
    scores = [name for name in table.column_names if name.startswith(_SCORE)]
    rows = []
    for line in table.to_pylist():
        noted = {name.removeprefix(_SCORE): line[name] for name in scores if line[name] is not None}
        rows.append(Row(**{name: line[name] for name in own} | {"crop": tuple(line["crop"])}, scores=noted))
    return settings, rows


def _settings(schema: pa.Schema, path: Path) -> StoreSettings:
    return config.from_dict(StoreSettings, json.loads(schema.metadata[_SETTINGS]), where=str(path))


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise UserError(
            f"{path.parent} is no store of latents: it has no {path.name}; `cogvideox encode` makes one"
        ) from None
    except OSError as error:
        raise cannot_read(path, error) from error
    except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise UserError(f"cannot read {path}: it is damaged or no index of latents") from error


def _columns(rows: list[Row]) -> dict[str, np.ndarray]:
    columns = {
        name: np.array([getattr(row, name) for row in rows])
        for name in ("num_frames", "height", "width", "fps", "source_fps")
    }
    for name in sorted({name for row in rows for name in row.scores}):
        values = [row.scores.get(name) for row in rows]
        texts = any(isinstance(value, str) for value in values)
        columns[name] = np.array([("" if texts else np.nan) if value is None else value for value in values])
    return columns
