"""Read prompt files: one prompt per line, optionally followed by `@@` and an image path, as in the official code."""

from dataclasses import dataclass
from pathlib import Path

from cogvideox.errors import UserError
from cogvideox.untrusted.files import read_bytes, reading
from cogvideox.untrusted.text_encoding import decode, split_lines, text_problem

COMMENT = "#"


@dataclass(frozen=True)
class PromptLine:
    """A line of a prompt file.

    Attributes:
        number: line number from 1.
        problem: the reason why the prompt cannot be used; None if it can.
    """

    number: int
    prompt: str
    image: Path | None
    problem: str | None = None


def read_prompts(file: Path) -> list[PromptLine]:
    """Read the prompts of a text file (see `text_encoding.decode`). Image paths are relative to the file's folder.

    Empty lines and lines that start with `#` are skipped. A prompt that starts with `#` is written with `\\#`.

    Raises:
        UserError: the file cannot be read, or contains no prompt.
    """
    with reading(file, "damaged"):
        lines = split_lines(decode(read_bytes(file)))
    prompts = []
    for number, line in enumerate(map(str.strip, lines), start=1):
        prompt, _, image = map(str.strip, line.partition("@@"))
        if line and not line.startswith(COMMENT):
            prompt = prompt[1:] if prompt.startswith("\\" + COMMENT) else prompt
            prompts.append(PromptLine(number, prompt, file.parent / image if image else None, text_problem(prompt)))
    if not prompts:
        raise UserError(f"{file} has no prompts: write one prompt per line")
    return prompts
