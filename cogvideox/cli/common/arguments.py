"""The argument parser of all commands: argparse, with errors raised as one-sentence `UserError`s."""

import argparse
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from cogvideox.errors import UserError
from cogvideox.options import Option, parse_value

# Names of options in other programs, and ours.
_SYNONYMS = {
    "--steps": "--num-inference-steps",
    "--num-steps": "--num-inference-steps",
    "--sampling-steps": "--num-inference-steps",
    "--frames": "--num-frames",
    "--length": "--num-frames",
    "--video-length": "--num-frames",
    "--cfg": "--guidance-scale",
    "--cfg-scale": "--guidance-scale",
    "--scale": "--guidance-scale",
    "--negative": "--negative-prompt",
    "--n-prompt": "--negative-prompt",
    "--scheduler": "--sampler",
    "--init-image": "--image",
    "--input-image": "--image",
    "--image-path": "--image",
    "--image-or-video-path": "--image",
    "--init-video": "--video",
    "--input-video": "--video",
    "--model-path": "--model",
    "--ckpt": "--model",
    "--checkpoint": "--model",
    "--lora-path": "--lora",
    "--prompt-file": "--prompts",
    "--num-videos-per-prompt": "--num-videos",
    "--offload": "--memory",
    "--enable-sequential-cpu-offload": "--memory",
    "--enable-model-cpu-offload": "--memory",
    "--low-vram": "--memory",
    "--quantize": "--weights",
    "--precision": "--dtype",
    "--force": "--overwrite",
    "--dataset": "--data",
    "--data-dir": "--data",
    "--output-dir": "--out",
    "--resume-from-checkpoint": "--resume",
}

_ARGPARSE_MESSAGES = {
    r"^argument (?:-\w/)?(\S+): invalid choice: '(.*)' \(choose from (.*)\)": r"\1 \2 must be one of \3",
    r"^argument (?:-\w/)?(\S+): invalid int value: '(.*)'": r"\1 \2 must be an integer",
    r"^argument (?:-\w/)?(\S+): invalid float value: '(.*)'": r"\1 \2 must be a number",
    r"^argument (?:-\w/)?(\S+): expected one argument": r"\1 needs a value",
    r"^argument (?:-\w/)?(\S+): expected (\d+) arguments": r"\1 needs \2 values",
    r"^argument (?:-\w/)?(\S+): ": r"\1: ",
}
"""Errors of argparse, as this package words them."""


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` that raises `UserError`, suggests the nearest flag and rejects abbreviated flags."""

    def __init__(self, command: str, operands: str, description: str) -> None:
        super().__init__(
            prog=f"cogvideox {command}",
            usage=f"cogvideox {command} {operands} [options]",
            description=description,
            allow_abbrev=False,
            formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=36, width=110),
        )
        self._hint = " (put the prompt in quotes)" if '"' in operands else ""
        self.register("type", Path, _path)

    def parse(
        self, arguments: Sequence[str], suggest: Callable[[str], str | None] = lambda flag: None
    ) -> argparse.Namespace:
        """Parse command-line arguments.

        Args:
            suggest: returns what to write instead of an unknown flag, if that is no flag.

        Raises:
            UserError: unknown flag, value of the wrong type, or missing value.
        """
        known, unknown = self.parse_known_intermixed_args(list(arguments))
        if unknown:
            first, flags = unknown[0], [flag for action in self._actions for flag in action.option_strings]
            if first.startswith("-"):
                flag = first.split("=")[0]
                synonym = _SYNONYMS.get(flag.replace("_", "-"))
                synonym = synonym if synonym in flags else suggest(flag)
                hint = f" (did you mean {synonym}?)" if synonym else nearest(first, flags)
                self.error(f"unknown option {flag}{hint}")
            self.error(f"unexpected argument {first!r}{self._hint}")
        return known

    def error(self, message: str) -> NoReturn:
        for pattern, sentence in _ARGPARSE_MESSAGES.items():
            message = re.sub(pattern, sentence, message)
        full_help = "--help-all" if "--help-all" in self._option_string_actions else "--help"
        raise UserError(f"{message}; see `{self.prog} {full_help}`")


def add_options(parser: Parser, options: Mapping[str, Option], *, common_only: bool) -> None:
    """Add the flags of declared options. Values stay strings, which `parse_options` parses; missing options are None.

    Args:
        common_only: show only common options in the help text, without groups. All options are still parsed.
    """
    groups: dict[str, Any] = {}
    for option in options.values():
        flags = option.flags or (_flag(option.name),)
        keywords: dict[str, Any] = {"help": _help(option)}
        if option.type is bool:
            keywords["action"] = argparse.BooleanOptionalAction
        else:
            keywords["metavar"] = option.metavar
        if isinstance(option.metavar, tuple):
            keywords["nargs"] = len(option.metavar)
        elif option.repeated:
            keywords["action"] = "append"
        if flags[0].startswith("-"):
            keywords["dest"] = option.name
        else:
            keywords["nargs"] = "?"
        group: Any = parser
        if common_only and not option.common:
            keywords["help"] = argparse.SUPPRESS
        elif not common_only and option.group:
            if option.group not in groups:
                groups[option.group] = parser.add_argument_group(option.group)
            group = groups[option.group]
        group.add_argument(*flags, **keywords)


def parse_options(parser: Parser, options: Mapping[str, Option], arguments: Sequence[str]) -> dict[str, Any]:
    """Parse arguments with declared options, and return the validated values of those that are set.

    Raises:
        UserError: unknown flag; value of the wrong type or out of bounds.
    """
    strings = vars(parser.parse(arguments))
    return {name: parse_value(option, strings[name]) for name, option in options.items() if strings[name] is not None}


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return ` (did you mean x?)` for the choice nearest to an unknown word; empty if none is similar."""
    close = get_close_matches(word, list(choices), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _help(option: Option) -> str:
    """Return the help text, with option names in backticks replaced by flags."""
    return re.sub(r"`(\w+)`", lambda match: _flag(match[1]), option.help).replace("%", "%%")


def _path(text: str) -> Path:
    """Parse a path. An empty string, such as from an unset shell variable, is an error, not the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty: name a file or folder")
    return Path(text)
