"""Settings as frozen dataclasses: read from and written to YAML and JSON, strictly. Imports no torch.

A field may be a bool, int, float, str, Path, Literal, an optional or a union of these, a tuple, list or dict of them,
or another such dataclass. Tuples are lists in a file. An unknown key, a missing one or a value of the wrong type raises
`UserError` with the key's dotted name, the rule and what was probably meant.
"""

import difflib
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from cogvideox.atomic_io import cannot_read, write_text
from cogvideox.errors import UserError

T = TypeVar("T")


def from_dict(cls: type[T], d: Mapping[str, Any], *, where: str = "") -> T:
    """An instance of the dataclass `cls` from plain data.

    Args:
        where: the file that `d` was read from, for messages.

    Raises:
        UserError: a key is unknown or missing, a value has the wrong type, or the class refuses the values.
    """
    return _build(cls, d, f"{where}: " if where else "", "")


def to_dict(obj: Any) -> Any:
    """A dataclass as plain data: dicts, lists, strings, numbers, None. `from_dict` undoes it."""
    if is_dataclass(obj):
        return {field.name: to_dict(getattr(obj, field.name)) for field in fields(obj)}
    if isinstance(obj, Mapping):
        return {key: to_dict(value) for key, value in obj.items()}
    if isinstance(obj, tuple | list):
        return [to_dict(value) for value in obj]
    return str(obj) if isinstance(obj, Path) else obj


def load(cls: type[T], path: str | Path) -> T:
    """Reads `path` (JSON if its name ends in `.json`, else YAML) as an instance of `cls`.

    Raises:
        UserError: the file cannot be read, or as for `from_dict`.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        data = json.loads(text, object_pairs_hook=_unique) if path.suffix == ".json" else yaml.load(text, _Loader)
    except OSError as error:
        raise cannot_read(path, error) from error
    except UnicodeDecodeError:
        raise UserError(f"cannot read {path}: it is not text in UTF-8") from None
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"cannot read {path}: {' '.join(str(error).split())}") from error
    return _build(cls, data, f"{path}: ", "")


def save(obj: Any, path: str | Path) -> None:
    """Writes a dataclass to `path` (JSON or YAML, by its suffix), whole or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    data = to_dict(obj)
    if Path(path).suffix == ".json":
        text = json.dumps(data, indent=2, ensure_ascii=False) + "\n"
    else:
        text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
    write_text(path, text)


def override(obj: T, changes: Mapping[str, Any]) -> T:
    """A copy of a dataclass with some values changed, each given by its dotted name: `{"optim.lr": "3e-4"}`.

    Strings are read as the field's type: `"3e-4"`, `"true"`, `"none"`, `"0.9,0.95"`. The checks of a class run once,
    after all its changes.

    Raises:
        UserError: as for `from_dict`.
    """
    return _override(obj, changes, "")


def dotted(data: Any, name: str = "") -> dict[str, Any]:
    """The single values of nested plain data, as `to_dict` makes it, by their dotted names."""
    if not isinstance(data, Mapping):
        return {name: data}
    values: dict[str, Any] = {}
    for part, inner in data.items():
        values |= dotted(inner, f"{name}.{part}" if name else str(part))
    return values


def digest(obj: Any, type_name: str | None = None) -> str:
    """A short hash of a dataclass and all its values, the same in every process and on every machine.

    Args:
        type_name: hashed instead of the class's name, so that a class that was renamed keeps its digests.
    """
    text = json.dumps([type_name or type(obj).__name__, to_dict(obj)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _build(cls: type[T], data: Any, where: str, prefix: str) -> T:
    if not isinstance(data, Mapping):
        what = f"{prefix[:-1]} must be" if prefix else "it must hold"
        raise UserError(f"{where}{what} a group of settings, got {_show(data)}")
    kinds = get_type_hints(cls)
    known = {field.name: field for field in fields(cls) if field.init}  # type: ignore[arg-type]
    for key in data:
        if key not in known:
            raise UserError(f"{where}there is no setting {prefix}{key}{_instead(str(key), known, prefix)}")
    missing = [
        prefix + name
        for name, field in known.items()
        if name not in data and field.default is MISSING and field.default_factory is MISSING
    ]
    if missing:
        raise UserError(f"{where}the settings {', '.join(missing)} are missing, and have no default")
    values = {key: _value(kinds[key], value, where, prefix + key) for key, value in data.items()}
    try:
        return cls(**values)
    except ValueError as error:
        raise UserError(f"{where}{error}") from error


def _override(obj: T, changes: Mapping[str, Any], prefix: str) -> T:
    kinds = get_type_hints(type(obj))
    groups: dict[str, dict[str, Any]] = {}
    values: dict[str, Any] = {}
    for name, value in changes.items():
        head, _, rest = name.partition(".")
        if head not in kinds:
            raise UserError(f"there is no setting {prefix}{head}{_instead(head, kinds, prefix)}")
        group = is_dataclass(getattr(obj, head))
        if group and not rest:
            inside = ", ".join(f"{prefix}{head}.{field.name}" for field in fields(getattr(obj, head)))
            raise UserError(f"{prefix}{head} is a group of settings; change one of {inside}")
        if rest and not group:
            raise UserError(f"there is no setting {prefix}{name}, because {prefix}{head} is a single value")
        if group:
            groups.setdefault(head, {})[rest] = value
        else:
            value = _parse(kinds[head], value) if isinstance(value, str) else value
            values[head] = _value(kinds[head], value, "", prefix + head)
    for head, inner in groups.items():
        values[head] = _override(getattr(obj, head), inner, f"{prefix}{head}.")
    try:
        return replace(obj, **values)  # type: ignore[type-var]
    except UserError:
        raise
    except ValueError as error:
        raise UserError(str(error)) from error


def _value(kind: Any, value: Any, where: str, name: str) -> Any:
    """`value` as an instance of `kind`, without guessing: an int is also a float, a list also a tuple, nothing else."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if is_dataclass(kind):
        return value if isinstance(value, kind) else _build(kind, value, where, f"{name}.")  # type: ignore[arg-type]
    if origin in (Union, UnionType):
        return _one_of(arguments, kind, value, where, name)
    if origin is Literal:
        if any(value == choice and type(value) is type(choice) for choice in arguments):
            return value
        choices = ", ".join(map(str, arguments))
        raise UserError(f"{where}{name} must be one of {choices}, got {_show(value)}{_meant(str(value), arguments)}")
    if kind is float and type(value) is int:
        return float(value)
    if kind is Path and isinstance(value, str):
        return Path(value)
    if origin is dict and isinstance(value, Mapping):
        return {
            _value(arguments[0], key, where, f"a key of {name}"): _value(arguments[1], item, where, f"{name}.{key}")
            for key, item in value.items()
        }
    if origin in (tuple, list) and isinstance(value, tuple | list):
        inside = arguments[:1] * len(value) if origin is list or arguments[1:] == (...,) else arguments
        if len(inside) == len(value):
            items = [_value(item, one, where, f"{name}[{i}]") for i, (item, one) in enumerate(zip(inside, value))]
            return origin(items)
    if isinstance(kind, type) and isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    raise UserError(f"{where}{name} must be {_describe(kind)}, got {_show(value)}")


def _one_of(kinds: tuple[Any, ...], union: Any, value: Any, where: str, name: str) -> Any:
    if value is None and NoneType in kinds:
        return None
    real = [kind for kind in kinds if kind is not NoneType]
    if len(real) == 1:
        return _value(real[0], value, where, name)
    for kind in real:
        try:
            return _value(kind, value, where, name)
        except UserError:
            continue
    raise UserError(f"{where}{name} must be {_describe(union)}, got {_show(value)}")


def _parse(kind: Any, text: str) -> Any:
    """What a word of the command line means for a field of this kind."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        if NoneType in arguments and text.lower() in ("none", "null"):
            return None
        real = [argument for argument in arguments if argument is not NoneType]
        return _parse(real[0], text) if len(real) == 1 else _plain(text)
    if kind in (str, Path) or (origin is Literal and text in arguments):
        return text
    if origin in (tuple, list) and not text.startswith("["):
        text = f"[{text}]"
    return _plain(text)


def _plain(text: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError:
        return text


def _describe(kind: Any) -> str:
    names = {bool: "true or false", int: "an integer", float: "a number", str: "a text", Path: "a path"}
    origin, arguments = get_origin(kind), get_args(kind)
    if kind in names:
        return names[kind]
    if kind is NoneType:
        return "none"
    if origin in (Union, UnionType):
        return " or ".join(_describe(argument) for argument in arguments)
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin is dict:
        return "a mapping"
    if origin is tuple and arguments[1:] != (...,):
        return f"a list of {len(arguments)} ({', '.join(_describe(argument) for argument in arguments)})"
    return "a list" if origin in (tuple, list) else f"a {getattr(kind, '__name__', kind)}"


def _instead(name: str, known: Mapping[str, Any], prefix: str) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"; did you mean {prefix}{close[0]}?"
    return f"; there are {', '.join(prefix + other for other in known)}"


def _meant(text: str, choices: tuple[Any, ...]) -> str:
    close = difflib.get_close_matches(text, [str(choice) for choice in choices], n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _unique(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    """A mapping of a file; of a key that stands there twice, one value would be ignored."""
    try:
        mapping = dict(pairs)
    except TypeError:
        raise UserError("a key has to be a word or a number, not a list or a mapping") from None
    if len(mapping) < len(pairs):
        names = [name for name, _ in pairs]
        raise UserError(f"the key {next(name for name in names if names.count(name) > 1)} stands there twice")
    return mapping


class _Loader(yaml.SafeLoader):
    """YAML as people write it: 3e-4 is a number (YAML 1.1 wants 3.0e-4), and no key stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        return _unique(
            [
                (self.construct_object(key, deep=True), self.construct_object(value, deep=True))
                for key, value in node.value
            ]
        )


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)
