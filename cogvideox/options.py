"""Options declared once, as annotated fields of dataclasses.

    @dataclass(frozen=True, kw_only=True)
    class Request:
        num_frames: Annotated[int, Option("number of frames, 4k+1", "size", common=True)]

Every interface is derived from `list_options(Request)`: command-line flags and their help, keyword arguments, the JSON
sidecar of a video, HTTP fields and form controls. To add an option, add a field.
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
    """User-facing description of a field. `list_options` sets the second group of attributes.

    Attributes:
        help: description in one line. A name in backticks refers to another option.
        group: heading under which the option is listed.
        metavar: placeholder of each value in the help; defaults to the choices or the type.
        common: whether the option appears in the short help.
        low, high: inclusive bounds of a number.
        hint: explanation of the bounds, for the error message.
        flags: command-line flags, if not `--name`.
        argument_type: type of the command-line argument if it differs from the type of the field, such as `Path` for a
            file whose digest is stored in the field.

        name: name of the field.
        type: type of the field, without None.
        choices: allowed values, if the type is a Literal.
        repeated: whether the option accepts any number of values.
        default: default of the field; None if there is none or if it depends on the model.
    """

    help: str
    group: str = ""
    metavar: str | tuple[str, ...] = ""
    common: bool = False
    low: int | float | None = None
    high: int | float | None = None
    hint: str = ""
    flags: tuple[str, ...] = ()
    argument_type: Any = None

    name: str = ""
    type: Any = None
    choices: tuple[str, ...] = ()
    repeated: bool = False
    default: Any = None


@cache
def list_options(cls: type) -> dict[str, Option]:
    """Return the options declared by a dataclass, by name, in field order."""
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
                metavar=option.metavar or "|".join(choices) or _METAVARS.get(option.argument_type or kind, ""),
                repeated=get_origin(kind) is tuple and get_args(kind)[1:] == (...,),
                default=None if field.default is MISSING else field.default,
            )
    return options


def takes_options(cls: type, *, except_for: tuple[str, ...] = ()) -> Callable[[Function], Function]:
    """Add the options of `cls` to the signature and docstring of a function with `**options`, for `help()`."""
    options = [option for name, option in list_options(cls).items() if name not in except_for]

    def decorate(function: Function) -> Function:
        parameters = [p for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD]
        keywords = [
            inspect.Parameter(option.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_annotation(option))
            for option in options
        ]
        function.__signature__ = inspect.Signature([*parameters, *keywords])  # type: ignore[attr-defined]
        lines = "\n".join(f"    {option.name}: {option.help}" for option in options)
        function.__doc__ = f"{inspect.getdoc(function)}\n\nOptions:\n{lines}\n"
        return function

    return decorate


def check_values(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Check the values that are not None and convert each to its option's type.

    Raises:
        TypeError: unknown option name.
        UserError: a value has the wrong type or is out of bounds.
    """
    options = list_options(cls)
    for name in values:
        if name not in options:
            close = get_close_matches(name, options, n=1)
            raise TypeError(f"unknown option {name!r}{f'; did you mean {close[0]!r}?' if close else ''}")
    return {name: check_value(options[name], value) for name, value in values.items() if value is not None}


def check_value(option: Option, value: Any) -> Any:
    """Convert a value to the option's type, for example a NumPy integer to an int, and check its bounds.

    Values of types other than bool, int, float, str, Literal and pairs of floats are returned unchanged.

    Raises:
        UserError: the value has the wrong type, is not one of the choices, or is out of bounds.
    """
    name, kind = option.name, option.type
    if option.choices and value not in option.choices:
        raise UserError(f"{name}={value!r} must be one of {', '.join(option.choices)}")
    if kind is bool:
        if type(value).__name__ not in ("bool", "bool_"):  # bool or numpy.bool_
            raise UserError(f"{name}={value!r} must be True or False")
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


def parse_value(option: Option, argument: str | list[str] | bool) -> Any:
    """Parse a command-line argument and check its value.

    Args:
        argument: a list for an option with several values, a bool for a flag.

    Raises:
        UserError: see `check_value`; also if a path is empty.
    """
    kind = option.type if option.argument_type is None else option.argument_type
    if kind is Path:
        if not argument:
            raise UserError(f"{option.name}: the path is empty; pass a file or a folder")
        return Path(str(argument))
    if kind is int and isinstance(argument, str):
        try:
            return check_value(option, int(argument))
        except UserError:
            raise
        except ValueError:
            raise UserError(f"{option.name}={argument!r} must be an integer") from None
    return tuple(argument) if isinstance(argument, list) and option.repeated else check_value(option, argument)


def check_range(name: str, value: int | float, low: int | float, high: int | float, hint: str = "") -> None:
    """Check that a number is in an inclusive range.

    Raises:
        UserError: the number is out of range; the message gives the nearest allowed value.
    """
    if low <= value <= high:
        return
    if high == math.inf:
        rule = f"{low} or more"
    else:
        rule = f"{high} or less" if low == -math.inf else f"from {low} to {high}"
    note = f" ({hint})" if hint else ""
    raise UserError(f"{name}={value} must be {rule}{note}; the nearest is {min(max(value, low), high)}")


def _annotation(option: Option) -> Any:
    """Return the annotation of a keyword. With an `argument_type`, objects of other types are accepted in Python."""
    return Any if option.argument_type is not None else option.type | None


def _without_none(kind: Any) -> Any:
    if get_origin(kind) in (Union, UnionType):
        members = [member for member in get_args(kind) if member is not NoneType]
        return members[0] if len(members) == 1 else kind
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
