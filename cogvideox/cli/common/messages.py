"""Messages to the user on stderr; stdout is for results."""

import sys

from cogvideox.untrusted.text_encoding import printable


def print_message(text: str) -> None:
    """Print a line prefixed with the program's name."""
    text = "\n".join(map(printable, text.split("\n")))
    print(f"cogvideox: {text}", file=sys.stderr, flush=True)


def print_note(text: str) -> None:
    """Print a note, about something unusual that is not an error."""
    print_message(f"note: {text}")
