"""Search paths and checksums of the model files of stages and signals.

A file is taken from the path in a parameter, from an installed package that contains it, or from the folder
in the environment variable `COGVIDEOX_SIGNAL_MODELS`, in this order. `tools/fetch_signal_models.py` fills this folder.
"""

import hashlib
import os
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from cogvideox.errors import UserError

FOLDER_VARIABLE = "COGVIDEOX_SIGNAL_MODELS"


@dataclass(frozen=True)
class ModelFile:
    """A published model file.

    Attributes:
        name: file name in the folder of model files.
        sha256: hash of the published file; empty to accept any content.
        source: where to get it, for messages.
        archive, member: package that contains it ("pip:", "npm:" or "deb:", then name and version), and its path there.
        module: module of the package, which is searched if it is installed.
    """

    name: str
    sha256: str
    source: str
    archive: str = ""
    member: str = ""
    module: str = ""

    def find(self, setting: str) -> Path | None:
        """Return the path of the file, or None. `given` is the value of the signal's parameter."""
        if setting:
            path = Path(setting).expanduser()
            return path if path.is_file() else None
        candidates = []
        if self.module and (spec := find_spec(self.module)) and spec.submodule_search_locations:
            candidates.append(Path(spec.submodule_search_locations[0]).parent / self.member)
        if folder := os.environ.get(FOLDER_VARIABLE):
            candidates.append(Path(folder).expanduser() / self.name)
        return next((path for path in candidates if path.is_file()), None)

    def missing(self, parameter: str, setting: str) -> list[str]:
        """Return a message if the file is missing or differs from the published one; otherwise an empty list."""
        path = self.find(setting)
        if path is None:
            where = f"{setting} is not a file" if setting else f"{self.name} was not found"
            return [f"{where}: {self.source}; set {parameter} to its path, or put it in ${FOLDER_VARIABLE}"]
        if not setting and self.sha256 and sha256(path) != self.sha256:
            return [f"{path} differs from the published file: {self.source}; to use it anyway, set {parameter} to it"]
        return []

    def path(self, setting: str) -> Path:
        """Return the path of the file.

        Raises:
            UserError: the file is missing.
        """
        path = self.find(setting)
        if path is None:
            raise UserError(self.missing("the parameter", setting)[0])
        return path


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file; cached until the file changes."""
    status = path.stat()
    return _sha256(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=64)
def _sha256(path: Path, modified: int, size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
