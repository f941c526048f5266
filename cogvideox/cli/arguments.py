"""The parser of every verb: argparse, whose complaints become a `UserError` of one sentence."""

import argparse
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import NoReturn

from cogvideox.errors import UserError


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` that raises `UserError`, names the nearest flag, and knows no abbreviations."""

    def __init__(self, verb: str, operands: str, description: str) -> None:
        super().__init__(
            prog=f"cogvideox {verb}",
            usage=f"cogvideox {verb} {operands} [options]",
            description=description,
            allow_abbrev=False,
            formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=36, width=110),
        )
        self._hint = " (put the prompt in quotes)" if '"' in operands else ""
        self.register("type", Path, _path)

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Reads the arguments.

        Raises:
            UserError: an unknown flag, a value of the wrong kind, a missing value.
        """
        known, unknown = self.parse_known_intermixed_args(list(arguments))
        if unknown:
            what, flags = unknown[0], [flag for action in self._actions for flag in action.option_strings]
            if what.startswith("-"):
                self.error(f"there is no option {what.split('=')[0]}{nearest(what, flags)}")
            self.error(f"{what!r} is one argument too many{self._hint}")
        return known

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see `{self.prog} --help`")


def _path(text: str) -> Path:
    """What is empty, such as a variable of the shell that was never set, would be the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty: name a file or folder")
    return Path(text)


def nearest(word: str, choices: Iterable[str]) -> str:
    """`, did you mean 'x'?`-like ending for a sentence about an unknown `word`; empty where nothing is near."""
    close = get_close_matches(word, list(choices), n=1)
    return f" (did you mean {close[0]}?)" if close else ""
