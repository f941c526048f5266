"""Configuration as frozen dataclasses, with strict parsing of YAML, JSON and the command line.

Types of fields are bool, int, float, str, Path, Literal, Any, optionals and unions of these, tuples, lists and dicts of
them, and other dataclasses. Files contain tuples as lists. The only coercions are int to float and list to tuple.
Unknown keys, missing keys and values of the wrong type raise a `UserError` with the dotted name of the key, the allowed
values and the nearest match.
"""

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from cogvideox.atomic_io import write_text
from cogvideox.errors import UserError
from cogvideox.untrusted.files import parse_json, parse_yaml, read_text, reading, unique_keys
from cogvideox.untrusted.text_encoding import dump_json

T = TypeVar("T")

VARIANT = {"omit_default": True}
"""Metadata of dataclass fields that `to_dict` leaves out while they have their default. They define variants of models
and of training; files and hashes of configs without the variant stay the same."""


def from_dict(cls: type[T], data: Mapping[str, Any], *, where: str = "") -> T:
    """Create an instance of the dataclass `cls` from plain data.

    Args:
        where: file of `data`, for error messages.

    Raises:
        UserError: a key is unknown or missing, a value has the wrong type, or `cls` rejects the values.
    """
    return _build(cls, data, f"{where}: " if where else "", "")


def to_dict(obj: Any) -> Any:
    """Convert a dataclass to plain data (dicts, lists, strings, numbers, None), the inverse of `from_dict`."""
    if is_dataclass(obj):
        values = {field.name: getattr(obj, field.name) for field in fields(obj) if not _is_omitted(obj, field)}
        return {name: to_dict(value) for name, value in values.items()}
    if isinstance(obj, Mapping):
        return {key: to_dict(value) for key, value in obj.items()}
    if isinstance(obj, tuple | list):
        return [to_dict(value) for value in obj]
    return str(obj) if isinstance(obj, Path) else obj


def load(cls: type[T], path: str | Path) -> T:
    """Read an instance of `cls` from a file (JSON if its name ends in `.json`, otherwise YAML).

    Raises:
        UserError: the file cannot be read, or its content is invalid (see `from_dict`).
    """
    return _build(cls, read_data(path), f"{path}: ", "")


def read_data(path: str | Path) -> Any:
    """Read plain data from a file: JSON if its name ends in `.json`, otherwise YAML.

    Raises:
        UserError: the file cannot be read, or exceeds a limit in `untrusted.LIMITS`.
    """
    path = Path(path)
    is_json = path.suffix == ".json"
    with reading(path, f"not {'JSON' if is_json else 'YAML'} with settings"):
        content = read_text(path)
        return parse_json(content, unique_keys) if is_json else parse_yaml(content)


def save(obj: Any, path: str | Path) -> None:
    """Write a dataclass to a file atomically, as JSON or YAML depending on the suffix.

    Raises:
        UserError: the file cannot be written.
    """
    data = to_dict(obj)
    if Path(path).suffix == ".json":
        content = dump_json(data) + "\n"
    else:
        content = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
    write_text(path, content)


def override(obj: T, changes: Mapping[str, Any]) -> T:
    """Return a copy of a dataclass with changed values, by dotted name: `{"optim.lr": "3e-4"}`.

    Strings are parsed according to the field's type: `"3e-4"`, `"true"`, `"none"` (also of an empty list),
    `"0.9,0.95"`. Validation runs once, after all changes.

    Raises:
        UserError: see `from_dict`.
    """
    data = to_dict(obj)
    for name, value in changes.items():
        *groups, key = name.split(".")
        group = data
        for i, part in enumerate(groups):
            group = group.setdefault(part, {})  # an unknown name is reported by `from_dict`
            if not isinstance(group, dict):
                raise UserError(f"unknown setting {name}: {'.'.join(groups[: i + 1])} is a single value")
        group[key] = _RawValue(value) if isinstance(value, str) else value
    return from_dict(type(obj), data)


def check_minimum(settings: Any, prefix: str = "", *, above: Iterable[str] = (), **minima: float | int) -> None:
    """Check that numbers of a dataclass are at least their minima, or above 0.

    Args:
        prefix: group of the settings in messages, such as "optim.".
        above: names of settings that must be above 0.
        minima: minima of other settings, by name. A value of None is valid; NaN is not.

    Raises:
        UserError: the first value that is too small.
    """
    for name, minimum in minima.items():
        value = getattr(settings, name)
        if value is not None and not value >= minimum:
            raise UserError(f"{prefix}{name}={value} must be {minimum} or more")
    for name in above:
        value = getattr(settings, name)
        if value is not None and not value > 0:
            raise UserError(f"{prefix}{name}={value} must be above 0")


def dotted(data: Any, name: str = "") -> dict[str, Any]:
    """Flatten nested plain data (`to_dict`) to a dict of values by dotted name."""
    if not isinstance(data, Mapping):
        return {name: data}
    values: dict[str, Any] = {}
    for part, inner in data.items():
        values |= dotted(inner, f"{name}.{part}" if name else str(part))
    return values


def digest(obj: Any, type_name: str | None = None) -> str:
    """Return a short hash of a dataclass and all its values, stable across processes and machines.

    Args:
        type_name: name to hash instead of the class name, so that digests do not change if the class is renamed.
    """
    content = json.dumps([type_name or type(obj).__name__, to_dict(obj)], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _is_omitted(obj: Any, field: Field[Any]) -> bool:
    return bool(field.metadata.get("omit_default")) and getattr(obj, field.name) == field.default


class _RawValue(str):
    """An unparsed command-line value."""


def _build(cls: type[T], data: Any, where: str, prefix: str) -> T:
    known = {field.name: field for field in fields(cls) if field.init}  # type: ignore[arg-type]
    if isinstance(data, _RawValue):
        names = ", ".join(prefix + name for name in known)
        raise UserError(f"{where}{prefix[:-1]} is a group of settings; change one of {names}")
    if not isinstance(data, Mapping):
        rule = f"{prefix[:-1]} must be a group of settings" if prefix else "the file must contain a mapping"
        raise UserError(f"{where}{rule}, got {_show(data)}")
    for key in data:
        if key not in known:
            available = f"; available: {', '.join(prefix + name for name in known)}"
            key = str(key) if len(str(key)) <= 60 else f"{str(key)[:57]}..."
            raise UserError(f"{where}unknown setting {prefix}{key}{_nearest(key, known, prefix) or available}")
    missing = [
        prefix + name
        for name, field in known.items()
        if name not in data and field.default is MISSING and field.default_factory is MISSING
    ]
    if missing:
        raise UserError(f"{where}the settings {', '.join(missing)} are missing and have no default")
    types = get_type_hints(cls)
    values = {key: _convert(value, types[key], where, prefix + key) for key, value in data.items()}
    try:
        return cls(**values)
    except ValueError as error:
        raise UserError(f"{where}{error}") from error


def _convert(value: Any, kind: Any, where: str, name: str) -> Any:
    """Validate `value` and convert it to type `kind`."""
    if is_dataclass(kind):
        return value if isinstance(value, kind) else _build(kind, value, where, f"{name}.")  # type: ignore[arg-type]
    if isinstance(value, _RawValue):
        value = _parse(str(value), kind)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return _convert_union(value, kind, where, name)
    if origin is Literal and any(value == choice and type(value) is type(choice) for choice in arguments):
        return value
    if type(value) is int and abs(value) >= 2**63:
        raise UserError(f"{where}{name} is an integer of more than 64 bits")
    if isinstance(value, str) and not _is_valid_string(value):
        raise UserError(f"{where}{name} has invalid characters: {_show(value)}")
    if kind is float and type(value) is int:
        return float(value)
    if kind is Path and isinstance(value, str):
        return Path(value)
    if origin is dict and isinstance(value, Mapping):
        return {
            _convert(key, arguments[0], where, f"a key of {name}"): _convert(item, arguments[1], where, f"{name}.{key}")
            for key, item in value.items()
        }
    if origin in (tuple, list) and isinstance(value, tuple | list):
        kinds = arguments[:1] * len(value) if origin is list or arguments[1:] == (...,) else arguments
        if len(kinds) == len(value):
            return origin(_convert(*pair, where, f"{name}[{i}]") for i, pair in enumerate(zip(value, kinds)))
    if kind is Any or (isinstance(kind, type) and isinstance(value, kind) and (type(value), kind) != (bool, int)):
        return value
    nearest = _nearest(value, map(str, arguments)) if origin is Literal else ""
    raise UserError(f"{where}{name} must be {_describe(kind)}, got {_show(value)}{nearest}")


def _convert_union(value: Any, union: Any, where: str, name: str) -> Any:
    """Convert `value` to the first member type that accepts it."""
    members = [member for member in get_args(union) if member is not NoneType]
    if value is None and NoneType in get_args(union):
        return None
    if isinstance(value, Mapping):  # so that the error is about the content of the mapping
        members = [member for member in members if is_dataclass(member)] or members
    if len(members) == 1:
        return _convert(value, members[0], where, name)
    for member in members:
        try:
            return _convert(value, member, where, name)
        except UserError:
            continue
    raise UserError(f"{where}{name} must be {_describe(union)}, got {_show(value)}")


def _parse(string: str, kind: Any) -> Any:
    """Parse a command-line value for a field of type `kind`."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        if NoneType in arguments and string.lower() in ("none", "null"):
            return None
        members = [member for member in arguments if member is not NoneType]
        return _parse(string, members[0] if len(members) == 1 else Any)
    if string.lower() == "none" and (origin is list or (origin is tuple and arguments[1:] == (...,))):
        return []
    if kind in (str, Path) or (origin is Literal and string in arguments):
        return string
    try:
        return parse_yaml(f"[{string}]" if origin in (tuple, list) and not string.startswith("[") else string)
    except UserError:
        raise
    except ValueError:
        return string


def _is_valid_string(value: str) -> bool:
    """Return whether a path may contain `value`: no NUL, and surrogates only for bytes that are invalid UTF-8."""
    try:
        return b"\0" not in value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False


def _describe(kind: Any) -> str:
    names = {bool: "true or false", int: "an integer", float: "a number", str: "a string", Path: "a path"}
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join(map(_describe, arguments))
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin is tuple and arguments[1:] != (...,):
        return f"a list of {len(arguments)} ({', '.join(map(_describe, arguments))})"
    containers = {NoneType: "none", dict: "a mapping", tuple: "a list", list: "a list"}
    return names.get(kind) or containers.get(origin or kind) or f"a {getattr(kind, '__name__', kind)}"


def _nearest(word: Any, choices: Iterable[str], prefix: str = "") -> str:
    close = difflib.get_close_matches(str(word)[:100], list(choices), n=1)
    return f"; did you mean {prefix}{close[0]}?" if close else ""


def _show(value: Any) -> str:
    try:
        string = repr(value)
    except ValueError:  # an integer with too many digits
        string = f"a large {type(value).__name__}"
    return string if len(string) <= 60 else string[:57] + "..."
