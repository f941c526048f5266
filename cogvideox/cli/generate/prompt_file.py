"""Files of prompts: one on a line, and after `@@` the image that it animates, as the official code has them."""

from dataclasses import dataclass
from pathlib import Path

from cogvideox.atomic_io import cannot_read
from cogvideox.errors import UserError


@dataclass(frozen=True)
class Line:
    """A prompt of a file, the image beside it, and on which line it stands."""

    number: int
    prompt: str
    image: Path | None


def read_prompts(file: Path) -> list[Line]:
    """The prompts of a file; empty lines are left out. The path of an image counts from the file's folder.

    Raises:
        UserError: the file cannot be read, is not UTF-8, or holds no prompt.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")  # Windows may begin it with a mark, which is no part of a prompt
    except UnicodeDecodeError:
        raise UserError(f"cannot read {file}: it is not text in UTF-8, one prompt on a line") from None
    except OSError as error:
        raise cannot_read(file, error) from error
    lines = []
    for number, line in enumerate(text.splitlines(), start=1):
        prompt, _, image = (part.strip() for part in line.partition("@@"))
        if prompt or image:
            lines.append(Line(number, prompt, file.parent / image if image else None))
    if not lines:
        raise UserError(f"{file} holds no prompt: write one on each line")
    return lines
