"""Messages to the user on stderr; stdout is for results."""

import sys


def print_message(text: str) -> None:
    """Print a line prefixed with the program's name."""
    print(f"cogvideox: {text}", file=sys.stderr, flush=True)


def print_note(text: str) -> None:
    """Print a note about something unusual that is not an error."""
    print_message(f"note: {text}")
