"""Required libraries and their installed versions, read from metadata without importing them."""

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

PURPOSES = {
    "hub": "models from the Hugging Face hub",
    "heic": "HEIC images, as from phones",
    "train": "charts of training runs by `cogvideox plot`; TensorBoard",
    "trackers": "metrics of trainings in TensorBoard, Weights & Biases or Trackio",
    "curate": "cutting and measuring raw video",
    "llm": "language models for captions and judges",
    "serve": "pages on which people rate and annotate videos",
    "ray": "curation and encoding on a cluster",
    "quant": "8-bit weights, in half the memory",
    "dev": "tests, checks and documentation",
}
"""Purpose of each extra."""

_CHECKOUT = Path(__file__).parents[3] / "pyproject.toml"


@dataclass(frozen=True)
class Library:
    """A required library, its version specifier, and the installed version (None if it is not installed)."""

    name: str
    wanted: str
    version: str | None

    @property
    def is_satisfied(self) -> bool:
        """Whether the installed version satisfies the requirement."""
        # Compare without suffixes: a vendor's 2.11.0a0+build counts as 2.11.0, and 5.0rc1 as 5.0.
        return self.version is not None and Version(self.version).base_version in SpecifierSet(self.wanted)

    @property
    def unmet_requirement(self) -> str:
        """The requirement, for messages: `numpy`, or `numpy>=2 (1.26 is installed)`."""
        return self.name if self.version is None else f"{self.name}{self.wanted} ({self.version} is installed)"


def libraries() -> dict[str, list[Library]]:
    """Return the libraries required by the package, under "", and by each extra.

    They are read from `pyproject.toml` in a checkout, otherwise from the metadata of the installed package.
    """
    requirements = _from_checkout() if _CHECKOUT.is_file() else _from_installation()
    installed = {extra: _look_up(lines) for extra, lines in requirements.items()}
    return {extra: libraries for extra, libraries in installed.items() if libraries}


def _from_checkout() -> dict[str, list[str]]:
    project = tomllib.loads(_CHECKOUT.read_text(encoding="utf-8"))["project"]
    return {"": project["dependencies"], **project["optional-dependencies"]}


def _from_installation() -> dict[str, list[str]]:
    requirements: dict[str, list[str]] = {"": []}
    try:
        lines = metadata.requires("cogvideox") or []
    except metadata.PackageNotFoundError:  # not installed, for example in a copy of the package folder
        return {}
    for line in lines:
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", line)
        requirements.setdefault(extra[1] if extra else "", []).append(line.partition(";")[0])
    return requirements


def _look_up(requirements: Iterable[str]) -> list[Library]:
    libraries = []
    for requirement in map(Requirement, requirements):
        if requirement.name == "cogvideox":  # an extra that includes another extra
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            version = None
        libraries.append(Library(requirement.name, str(requirement.specifier), version))
    return libraries
