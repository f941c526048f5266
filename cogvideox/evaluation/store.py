"""Measurements on disk, so that no video is measured twice.

Every measurement is appended to `OUT/measurements.jsonl` at once. Its key is a hash of the video's bytes, the prompt,
the evaluated model's weights, the scorer's settings and the scoring code, so that a video is measured again if any of
these changes. A line that a killed run left incomplete is ignored. Failures are not stored: the next run tries them
again.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cogvideox.atomic_io import cannot_read, cannot_write
from cogvideox.evaluation.protocol import code_version
from cogvideox.evaluation.scorer import Item, Measurement

FILE = "measurements.jsonl"


class MeasurementStore:
    """The measurements in a folder, by key."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self._values: dict[str, Measurement] = {}
        self._file: Any = None
        try:
            data = self.path.read_bytes() if self.path.exists() else b""
        except OSError as error:
            raise cannot_read(self.path, error) from error
        self._is_torn = bool(data) and not data.endswith(b"\n")
        for line in data.split(b"\n"):
            try:
                row = json.loads(line)
                self._values[row["key"]] = row["values"]
            except (ValueError, LookupError, TypeError):
                continue  # empty, or incomplete

    def get(self, key: str) -> Measurement | None:
        """Return a measurement; None if there is none."""
        return self._values.get(key)

    def add(self, key: str, scorer: str, item: str, values: Measurement) -> None:
        """Append a measurement. Raises UserError if it cannot be written."""
        line = json.dumps({"key": key, "scorer": scorer, "item": item, "values": values}, allow_nan=False)
        try:
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self.path.open("a", encoding="utf-8")
                if self._is_torn:
                    self._file.write("\n")
            self._file.write(line + "\n")
            self._file.flush()
        except OSError as error:
            raise cannot_write(self.path, error) from error
        self._values[key] = json.loads(line)["values"]

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def measurement_key(scorer: str, settings: Mapping[str, Any], item: Item, video_hash: str, weights: str = "") -> str:
    """Return the key of a scorer's measurement of a video. `weights` is the hash of the evaluated model's weights."""
    values = [scorer, dict(settings), item.prompt, dict(item.info), video_hash, weights, code_version()]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:24]


def file_hash(path: Path) -> str:
    """Return the hash of a file's bytes. Raises UserError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:24]
    except OSError as error:
        raise cannot_read(path, error) from error
