"""What the package needs beside itself, by its own account, and what of it is installed here. Imports none of it."""

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

PURPOSES = {
    "hub": "models by their name on the Hugging Face hub",
    "train": "charts of training runs by `cogvideox plot` and in TensorBoard",
    "curate": "cutting, measuring and labelling of raw video",
    "ray": "curation and encoding on a cluster",
    "llm": "captions and longer prompts by a language model on this machine",
    "serve": "the web pages and the HTTP API",
    "quant": "weights of eight bits, in half the memory",
    "dev": "tests, checks and documentation",
}
"""What each optional part is for."""

_CHECKOUT = Path(__file__).parent.parent.parent / "pyproject.toml"


@dataclass(frozen=True)
class Library:
    """A library that is asked for, and its version here; None where it is not installed."""

    name: str
    wanted: str
    version: str | None

    @property
    def fits(self) -> bool:
        return self.version is not None and _is_within(self.version, self.wanted)

    @property
    def shortfall(self) -> str:
        """`numpy`, or `numpy>=2 (1.26 is installed)`."""
        return self.name if self.version is None else f"{self.name}{self.wanted} ({self.version} is installed)"


def libraries() -> dict[str, list[Library]]:
    """The libraries that are needed, under "", and those of each optional part that has any of its own.

    In a checkout the project's file says so, elsewhere what was noted when the package was installed.
    """
    lines = _of_checkout() if _CHECKOUT.is_file() else _of_installation()
    return {part: found for part, wanted in lines.items() if (found := _look_up(wanted))}


def _of_checkout() -> dict[str, list[str]]:
    project = tomllib.loads(_CHECKOUT.read_text(encoding="utf-8"))["project"]
    return {"": project["dependencies"], **project["optional-dependencies"]}


def _of_installation() -> dict[str, list[str]]:
    lines: dict[str, list[str]] = {"": []}
    try:
        noted = metadata.requires("cogvideox") or []
    except metadata.PackageNotFoundError:  # files that were copied from somewhere
        return {}
    for line in noted:
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", line)
        lines.setdefault(extra[1] if extra else "", []).append(line.partition(";")[0])
    return lines


def _look_up(lines: Iterable[str]) -> list[Library]:
    found = []
    for line in lines:
        name, wanted = re.fullmatch(r"([\w.-]+)(?:\[[^]]*\])?\s*\(?([^;)]*)\)?.*", line).groups()  # type: ignore[union-attr]
        if name == "cogvideox":  # a part that another part takes in
            continue
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            version = None
        found.append(Library(name, wanted.replace(" ", ""), version))
    return found


def _is_within(version: str, wanted: str) -> bool:
    """Whether a version is at or above the lower bound and below the upper one, of which our requirements are made."""
    for sign, bound in re.findall(r"(>=|<)([\d.]+)", wanted):
        if (_numbers(version) >= _numbers(bound)) != (sign == ">="):
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    release = re.match(r"[\d.]*\d|", version.partition("+")[0])
    numbers = [int(number) for number in release[0].split(".")] if release and release[0] else []
    while numbers and numbers[-1] == 0:  # 5.0 is 5
        numbers.pop()
    return tuple(numbers)
