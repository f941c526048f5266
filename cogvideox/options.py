"""Options declared once, as annotated fields of dataclasses. Imports no torch.

    @dataclass(frozen=True, kw_only=True)
    class Request:
        num_frames: Annotated[int, Option("number of frames, 4k+1", "size", common=True)]

Whatever offers an option derives it from `list_options(Request)`: command-line flags and their help, keyword arguments,
the JSON sidecar of a video, HTTP fields and form controls. To add an option, add a field.
"""

import inspect
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from cogvideox.errors import UserError

_METAVARS = {int: "N", float: "X", str: "TEXT", Path: "FILE"}

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Option:
    """Describes a field to users. The declaration gives the first block of fields, `list_options` fills in the second.

    help: what the option does, in one line. A name in backticks refers to another option.
    group: the heading that it is listed under.
    metavar: the placeholder for its value, or for each of its values; by default its choices or its type.
    common: whether the short help lists it.
    low, high: bounds of a number, both included.
    hint: what the bounds mean, for the error message.
    flags: command-line flags, where they are not `--name`.
    text: the type that is given as text, where it is not that of the field, such as `Path` for a file that the field
        holds the digest of.

    name: of the field.
    type: of the field, without None.
    choices: the legal values, if the type is a Literal.
    repeated: whether the option takes any number of values.
    default: of the field; None where it has none, or depends on the model.
    """

    help: str
    group: str = ""
    metavar: str | tuple[str, ...] = ""
    common: bool = False
    low: int | float | None = None
    high: int | float | None = None
    hint: str = ""
    flags: tuple[str, ...] = ()
    text: Any = None

    name: str = ""
    type: Any = None
    choices: tuple[str, ...] = ()
    repeated: bool = False
    default: Any = None


@cache
def list_options(cls: type) -> dict[str, Option]:
    """The options that a dataclass declares, by name, in the order of its fields."""
    hints, options = get_type_hints(cls, include_extras=True), {}
    for field in fields(cls):
        hint = hints[field.name]
        if get_origin(hint) is Annotated:
            declared, option = get_args(hint)[:2]
            kind = _without_none(declared)
            choices = get_args(kind) if get_origin(kind) is Literal else ()
            options[field.name] = replace(
                option,
                name=field.name,
                type=kind,
                choices=choices,
                metavar=option.metavar or "|".join(choices) or _METAVARS.get(option.text or kind, ""),
                repeated=get_origin(kind) is tuple and get_args(kind)[1:] == (...,),
                default=None if field.default is MISSING else field.default,
            )
    return options


def takes_options(cls: type, *, except_for: tuple[str, ...] = ()) -> Callable[[Function], Function]:
    """Decorator of a function with `**options`: show the options of `cls` in its signature and docstring at run time,
    for `help()` and notebooks."""
    options = [option for name, option in list_options(cls).items() if name not in except_for]

    def decorate(function: Function) -> Function:
        own = [p for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD]
        keywords = [
            inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_optional(one))
            for one in options
        ]
        function.__signature__ = inspect.Signature([*own, *keywords])  # type: ignore[attr-defined]
        lines = "\n".join(f"    {option.name}: {option.help}" for option in options)
        function.__doc__ = f"{inspect.getdoc(function)}\n\nOptions:\n{lines}\n"
        return function

    return decorate


def check_values(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that are given (not None), each checked and converted to its option's type.

    Raises:
        TypeError: no option of that name.
        UserError: a value of the wrong type or out of bounds.
    """
    options = list_options(cls)
    for name in values:
        if name not in options:
            near = get_close_matches(name, options, n=1)
            raise TypeError(f"there is no option {name!r}{f'; did you mean {near[0]!r}?' if near else ''}")
    return {name: check_value(options[name], value) for name, value in values.items() if value is not None}


def check_value(option: Option, value: Any) -> Any:
    """Convert a value to the option's type, for example a NumPy integer to an int, and check its bounds.

    Values of other types than bool, int, float, str, Literal and a pair of floats are returned as they are.

    Raises:
        UserError: the wrong type, not one of the choices, or out of bounds.
    """
    name, kind = option.name, option.type
    if option.choices and value not in option.choices:
        raise UserError(f"{name}={value!r} must be one of {', '.join(option.choices)}")
    if kind is bool:
        return bool(value)
    if kind is str and not isinstance(value, str):
        raise UserError(f"{name} must be a string, got {type(value).__name__}")
    if kind == tuple[float, float]:
        return _pair(name, value)
    if kind is int or kind is float:
        number = _integer(name, value) if kind is int else _number(name, value)
        low, high = (
            (-math.inf if option.low is None else option.low),
            (math.inf if option.high is None else option.high),
        )
        check_range(name, number, low, high, option.hint)
        return number
    return value


def parse_value(option: Option, text: str | list[str] | bool) -> Any:
    """Read a value from text, such as a command-line argument, and check it.

    Args:
        text: a list for an option with several values, a bool for a flag.

    Raises:
        UserError: as `check_value`; an empty path.
    """
    kind = option.type if option.text is None else option.text
    if kind is Path:
        if not text:
            raise UserError(f"{option.name}: the path is empty; name a file or a folder")
        return Path(str(text))
    if kind is int and isinstance(text, str):
        try:
            return check_value(option, int(text))
        except UserError:
            raise
        except ValueError:
            raise UserError(f"{option.name}={text!r} must be an integer") from None
    return tuple(text) if isinstance(text, list) and option.repeated else check_value(option, text)


def check_range(name: str, value: int | float, low: int | float, high: int | float, hint: str = "") -> None:
    """Check that a number lies in a range, both ends included.

    Raises:
        UserError: it does not; the message has the nearest value that does.
    """
    if low <= value <= high:
        return
    if high == math.inf:
        rule = f"{low} or more"
    else:
        rule = f"{high} or less" if low == -math.inf else f"from {low} to {high}"
    note = f" ({hint})" if hint else ""
    raise UserError(f"{name}={value} must be {rule}{note}; the nearest is {min(max(value, low), high)}")


def _optional(option: Option) -> Any:
    """The annotation of a keyword. What is given as text or path in one place may be an object in Python."""
    return Any if option.text is not None else option.type | None


def _without_none(kind: Any) -> Any:
    if get_origin(kind) in (Union, UnionType):
        others = [one for one in get_args(kind) if one is not NoneType]
        return others[0] if len(others) == 1 else kind
    return kind


def _integer(name: str, value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise UserError(f"{name}={value!r} must be an integer") from None


def _number(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"{name}={value!r} must be a number") from None
    if not math.isfinite(number):
        raise UserError(f"{name}={number} must be a finite number")
    return number


def _pair(name: str, value: Any) -> tuple[float, float]:
    try:
        first, second = value
    except (TypeError, ValueError):
        raise UserError(f"{name}={value!r} must be two numbers, such as 0.2 0.8") from None
    return _number(name, first), _number(name, second)
