"""Write `generation/request/keywords.py`: the keywords of `CogVideoX.generate` for editors and type checkers.

Run it after changing a field of `Request`; a test fails until then:

    python tools/option_keywords.py
"""

from pathlib import Path
from typing import Any, get_args

from cogvideox.generation.request.request import Request
from cogvideox.options import Option, list_options

FILE = Path(__file__).parent.parent / "cogvideox/generation/request/keywords.py"

HEADER = '''"""Keywords of `CogVideoX.generate`, for editors and type checkers. Written by tools/option_keywords.py."""

from typing import Any, Literal, TypedDict


class RequestKeywords(TypedDict, total=False):
    """Fields of `Request`, each optional; None means the default."""

'''


def main() -> None:
    FILE.write_text(source(), encoding="utf-8")


def source() -> str:
    """Return the content of the file."""
    options = [option for option in list_options(Request).values() if option.name != "prompt"]
    return (
        HEADER
        + "\n".join(f'    {option.name}: {annotation(option)}\n    """{option.help}"""' for option in options)
        + "\n"
    )


def annotation(option: Option) -> str:
    """Return the type of a keyword as source code."""
    if option.argument_type is not None:  # paths, arrays and more, see `inputs.read_inputs`
        return "Any"
    if option.choices:
        return f"Literal[{', '.join(map(_quoted, option.choices))}] | None"
    return f"{_name(option.type)} | None"


def _name(kind: Any) -> str:
    inner = ", ".join(_name(argument) for argument in get_args(kind))
    return f"{kind.__name__}[{inner}]" if inner else kind.__name__


def _quoted(text: str) -> str:
    return f'"{text}"'


if __name__ == "__main__":
    main()
