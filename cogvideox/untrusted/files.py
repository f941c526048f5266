"""Safe reading of untrusted files: resource limits, and readers that raise `UserError` for any malformed input.

Override a limit with an environment variable, `COGVIDEOX_MAX_` followed by its name, such as
`COGVIDEOX_MAX_PIXELS=400000000`. Worker processes inherit it.
"""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from cogvideox.atomic_io import cannot_read
from cogvideox.errors import UserError, is_out_of_memory
from cogvideox.untrusted.text_encoding import decode, is_unicode

LIMITS = {
    "PIXELS": 100_000_000,  # per image
    "FRAME_PIXELS": 40_000_000,  # per video frame; 8K has 33 million
    "VIDEO_PIXELS": 500_000_000,  # total over all frames read from a video at once, after resizing
    "VIDEO_SECONDS": 24 * 3600,  # duration of a video
    "FRAME_GAP": 60,  # seconds between two consecutive frames of a video
    "SETTINGS": 200_000,  # characters in a YAML file, and values in it with all aliases expanded
    "METRICS": 200,  # metric names in a run's metrics.jsonl
    "TEXT_BYTES": 50_000_000,  # JSON file, caption or file of prompts
    "TABLE_BYTES": 1_000_000_000,  # table of clips, or metrics.jsonl
    "ROWS": 2_000_000,  # rows of a table of clips
    "CAPTION": 100_000,  # characters of a caption
    "COLUMNS": 1_000,  # columns of a table of clips; the others are ignored
}
"""Maximum values (docs/limits.md)."""

_MAX_LIMIT = 2**62  # larger limits would overflow the integers of libraries

MAX_DEPTH = 64
"""Maximum nesting depth of lists and objects in a JSON or YAML file."""


MAX_LAYERS = 1_000
"""Maximum number of layers of a network."""

MAX_SIZE = 1_000_000
"""Maximum of every other size in the configuration of a network, such as its width or vocabulary."""


def limit(name: str) -> int:
    """Return a limit: the value of its environment variable if set, otherwise the value in `LIMITS`.

    Raises:
        UserError: the environment variable is not a positive number.
    """
    variable = f"COGVIDEOX_MAX_{name}"
    string = os.environ.get(variable)
    if string is None:
        return LIMITS[name]
    try:
        value = int(float(string))
    except (ValueError, OverflowError):
        value = 0
    if value < 1:
        raise UserError(f"{variable}={string} must be a number of 1 or more; the default is {LIMITS[name]}")
    return min(value, _MAX_LIMIT)


def check_limit(name: str, value: float | int, description: str) -> None:
    """Raise an error if `value` exceeds a limit.

    Args:
        description: start of the message, such as "a frame of 20000x20000 pixels".

    Raises:
        UserError: the value exceeds the limit; the message states the limit and the variable that raises it.
    """
    if value > (maximum := limit(name)):
        raise UserError(f"{description} is above the limit of {maximum:,}; COGVIDEOX_MAX_{name} raises it")


def check_sizes(sizes: Mapping[str, Any], owner: str) -> None:
    """Check the sizes in the configuration of a network, before it is built.

    Args:
        owner: the network, for the message.

    Raises:
        UserError: a number of layers or another size is far above that of any network.
    """
    for name, value in sizes.items():
        most = MAX_LAYERS if "layers" in name else MAX_SIZE
        largest = max(value, default=0) if isinstance(value, tuple) else value
        if isinstance(largest, int) and largest > most:
            raise UserError(f"{name}={largest} of {owner} is too large: at most {most:,} is supported")
        if isinstance(value, tuple) and len(value) > MAX_LAYERS:
            raise UserError(f"{name} of {owner} has {len(value):,} values: at most {MAX_LAYERS:,} are supported")


@contextmanager
def reading(path: str | Path, problem: str) -> Iterator[None]:
    """Convert any exception raised in the block to a `UserError` that names `path`.

    An untrusted file can contain anything, so not all exceptions of parsers are known.

    Args:
        problem: description of a parser failure, such as "damaged or not a PyTorch file".
    """
    try:
        yield
    except UserError as error:
        check_lfs_pointer(path, error)
        raise
    except OSError as error:
        raise cannot_read(path, error) from error
    except UnicodeDecodeError as error:
        raise UserError(f"cannot read {path}: it is not UTF-8 text") from error
    except Exception as error:
        check_lfs_pointer(path, error)
        detail = " ".join(str(error).split())
        if isinstance(error, RecursionError):
            detail = "it is nested too deeply"
        elif is_out_of_memory(error):
            detail = "it needs more memory than is available"
        elif isinstance(error, KeyError):
            detail = f"{detail} is missing"
        detail = detail if len(detail) <= 200 else f"{detail[:200]}..."
        raise UserError(f"cannot read {path}: it is {problem}{f' ({detail})' if detail else ''}") from error


def check_lfs_pointer(path: str | Path, cause: Exception | None = None) -> None:
    """Raise UserError if a file is a Git LFS pointer, which replaces a large file in a clone without Git LFS."""
    try:
        if not Path(path).is_file():  # a pipe would never end
            return
        with Path(path).open("rb") as file:
            is_pointer = file.read(64).startswith(b"version https://git-lfs")
    except (OSError, ValueError):
        return
    if is_pointer:
        raise UserError(
            f"cannot read {path}: it is a Git LFS pointer, not the file itself; run `git lfs pull` in its repository"
        ) from cause


def read_bytes(path: str | Path, name: str = "TEXT_BYTES") -> bytes:
    """Read a file whose size is within the limit called `name`.

    Raises:
        OSError: the file cannot be read.
        UserError: the file is larger, or has no end (a pipe or device).
    """
    maximum = limit(name)
    with Path(path).open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        data = file.read(min(size, maximum) + 1)
        while len(data) <= maximum and (more := file.read(2**20)):  # a pipe or device, whose size is 0
            data += more
    check_limit(name, len(data), f"cannot read {path}: its size of more than {maximum:,} bytes")
    return data


def read_text(path: str | Path, name: str = "TEXT_BYTES") -> str:
    """Read a text file in any encoding that `text_encoding.decode` detects.

    Raises:
        OSError: the file cannot be read.
        UserError: the file is larger than the limit called `name`, or has undecodable bytes.
    """
    text = decode(read_bytes(path, name))
    if not is_unicode(text):
        raise UserError(f"cannot read {path}: it is not UTF-8 text")
    return text


def parse_json(data: str | bytes, pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Parse JSON of at most `MAX_DEPTH` levels, so that recursion over it is safe.

    Raises:
        ValueError: invalid JSON, or nested too deeply.
    """
    try:
        content = json.loads(data, object_pairs_hook=pairs_hook)
    except RecursionError:
        raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep") from None
    level = [content]
    for _ in range(MAX_DEPTH + 1):
        nested = [value for value in level if isinstance(value, dict | list)]
        if not nested:
            return content
        level = [inner for value in nested for inner in (value.values() if isinstance(value, dict) else value)]
    raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep")


def parse_yaml(document: str) -> Any:
    """Parse YAML. `3e-4` is a number, duplicate keys are errors, and the expansion of aliases is limited.

    Raises:
        UserError: a limit in `LIMITS` is exceeded.
        ValueError: invalid YAML, or nested too deeply.
    """
    check_limit("SETTINGS", len(document), f"YAML of {len(document):,} characters")
    try:
        return _Loader(document).get_single_data()
    except UserError:
        raise
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except Exception as error:  # tags such as !!timestamp raise other exceptions for invalid values
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error


def unique_keys(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    """Create a dict and reject duplicate keys, because one of their values would be ignored silently."""
    try:
        mapping = dict(pairs)
    except TypeError:
        raise ValueError("a key must be a word or a number, not a list or a mapping") from None
    if len(mapping) < len(pairs):
        seen: set[Any] = set()
        duplicate = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise ValueError(f"the key {duplicate} occurs twice")
    return mapping


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a file that contains one JSON object.

    Raises:
        UserError: the file cannot be read, or does not contain a JSON object.
    """
    with reading(path, "damaged or not JSON"):
        data = parse_json(read_text(path))
    if not isinstance(data, dict):
        raise UserError(f"cannot read {path}: it contains a {type(data).__name__} instead of a JSON object")
    return data


class _Loader(yaml.SafeLoader):
    """YAML loader of `parse_yaml` that also reads 3e-4 as a number; YAML 1.1 requires 3.0e-4."""

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        num_values, depth = (0, 0) if node is None else _size_of(node, {})
        check_limit("SETTINGS", num_values, f"YAML with {num_values:,} values after expansion of aliases")
        if depth > MAX_DEPTH:
            raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep")
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        construct = self.construct_object
        return unique_keys([(construct(key, deep=True), construct(value, deep=True)) for key, value in node.value])


def _size_of(node: yaml.Node, known: dict[yaml.Node, tuple[int, int] | None]) -> tuple[int, int]:
    """Return the number of values in a node, in which every alias counts, and their nesting depth."""
    if isinstance(node, yaml.ScalarNode):
        return 1, 1
    if node not in known:
        known[node] = None
        inner = chain.from_iterable(node.value) if isinstance(node, yaml.MappingNode) else node.value
        sizes = [_size_of(child, known) for child in inner]
        known[node] = 1 + sum(count for count, _ in sizes), 1 + max((depth for _, depth in sizes), default=0)
    if (size := known[node]) is None:
        raise ValueError("an alias contains itself")
    return size


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)
