"""Read prompt files: one prompt per line, optionally followed by `@@` and an image path, as in the official code."""

from dataclasses import dataclass
from pathlib import Path

from cogvideox.atomic_io import cannot_read
from cogvideox.errors import UserError


@dataclass(frozen=True)
class PromptLine:
    """A prompt with its optional image and its line number, from 1."""

    number: int
    prompt: str
    image: Path | None


def read_prompts(file: Path) -> list[PromptLine]:
    """Read the prompts of a file. Empty lines are skipped; image paths are relative to the file's folder.

    Raises:
        UserError: the file cannot be read, is not UTF-8, or contains no prompt.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")  # Windows editors write a byte order mark
    except UnicodeDecodeError:
        raise UserError(f"cannot read {file}: it is not text in UTF-8, one prompt per line") from None
    except OSError as error:
        raise cannot_read(file, error) from error
    prompts = []
    for number, line in enumerate(text.splitlines(), start=1):
        prompt, _, image = (part.strip() for part in line.partition("@@"))
        if prompt or image:
            prompts.append(PromptLine(number, prompt, file.parent / image if image else None))
    if not prompts:
        raise UserError(f"{file} has no prompts: write one per line")
    return prompts
