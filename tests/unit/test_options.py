"""Options declared as annotated fields: listing, checking and parsing."""

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest

from cogvideox.errors import UserError
from cogvideox.options import Option, check_range, check_values, list_options, parse_value, takes_options


@dataclass(frozen=True, kw_only=True)
class Cake:
    name: Annotated[str, Option("what to call it", "general", common=True)]
    layers: Annotated[int | None, Option("number of layers", low=1, high=9, hint="more fall over")] = None
    sugar: Annotated[float, Option("in grams, see `layers`", low=0)] = 100.0
    icing: Annotated[Literal["none", "chocolate"], Option("kind of icing")] = "none"
    candles: Annotated[bool, Option("whether to add candles")] = False
    picture: Annotated[bytes | None, Option("a picture to print on it", argument_type=Path)] = None
    toppings: Annotated[tuple[str, ...], Option("what to put on top")] = ()
    oven: str = "mine"


def test_options_are_listed_in_order_with_types_and_defaults():
    options = list_options(Cake)
    assert list(options) == ["name", "layers", "sugar", "icing", "candles", "picture", "toppings"]
    assert (options["layers"].type, options["layers"].default, options["layers"].high) == (int, None, 9)
    assert options["icing"].choices == ("none", "chocolate") and options["icing"].default == "none"
    assert options["toppings"].repeated and not options["name"].repeated
    assert options["name"].common and options["name"].group == "general"


def test_values_are_converted_and_none_is_left_out():
    assert check_values(Cake, {"name": "x", "layers": None, "sugar": 3}) == {"name": "x", "sugar": 3.0}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"layers": 12}, r"layers=12 must be from 1 to 9 \(more fall over\); the nearest is 9"),
        ({"layers": 1.5}, "layers=1.5 must be an integer"),
        ({"sugar": -1}, "sugar=-1.0 must be 0 or more; the nearest is 0"),
        ({"sugar": float("nan")}, "sugar=nan must be a finite number"),
        ({"icing": "butter"}, "icing='butter' must be one of none, chocolate"),
        ({"name": 3}, "name must be a string, got int"),
    ],
)
def test_invalid_values_are_rejected(values, message):
    with pytest.raises(UserError, match=message):
        check_values(Cake, values)


def test_unknown_names_are_rejected_with_the_nearest_name():
    with pytest.raises(TypeError, match=r"unknown option 'layer'; did you mean 'layers'\?"):
        check_values(Cake, {"layer": 2})
    with pytest.raises(TypeError, match=r"unknown option 'oven'$"):  # not declared as an option
        check_values(Cake, {"oven": "yours"})


def test_values_are_parsed_from_strings():
    options = list_options(Cake)
    strings = {"layers": "2", "sugar": "1e2", "icing": "chocolate", "picture": "a.png", "toppings": ["a", "b"]}
    parsed = {name: parse_value(options[name], value) for name, value in strings.items()}
    expected = {"layers": 2, "sugar": 100.0, "icing": "chocolate", "picture": Path("a.png"), "toppings": ("a", "b")}
    assert parsed == expected and parse_value(options["candles"], True) is True
    for name, value, message in (
        ("layers", "two", "layers='two' must be an integer"),
        ("picture", "", "path is empty"),
    ):
        with pytest.raises(UserError, match=message):
            parse_value(options[name], value)


def test_ranges_may_be_open():
    check_range("x", 5, 1, float("inf"))
    with pytest.raises(UserError, match="x=5 must be 4 or less; the nearest is 4"):
        check_range("x", 5, -float("inf"), 4)


def test_takes_options_extends_signature_and_docstring():
    @takes_options(Cake, except_for=("name",))
    def bake(name: str, **options: object) -> object:
        """Bake a cake."""
        return options

    assert "layers: int | None = None" in str(inspect.signature(bake))
    assert "name: what to call it" not in bake.__doc__ and "    layers: number of layers" in bake.__doc__
    assert bake("x", layers=2) == {"layers": 2}
