"""Messages for people, on the error stream: standard output is for results."""

import sys


def print_message(text: str) -> None:
    """Print a line that begins with the program's name."""
    print(f"cogvideox: {text}", file=sys.stderr, flush=True)


def print_note(text: str) -> None:
    """Print a note about something unusual that is no error."""
    print_message(f"note: {text}")
