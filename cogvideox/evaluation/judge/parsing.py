"""Parsers of a judge's score: a strict one, and that of the official script."""

import re

_SCORE = re.compile(r'[*`\s]*"?score"?\s*[:=]\s*\{?\s*([1-5])\s*\}?[*`.\s]*', re.IGNORECASE)


def parse_score(answer: str) -> int | None:
    """Return the score in the last line that is not empty, such as `"Score":{4}`; None if it is not from 1 to 5."""
    lines = [line for line in answer.splitlines() if line.strip()]
    match = _SCORE.fullmatch(lines[-1]) if lines else None
    return int(match[1]) if match else None


def parse_official(answer: str) -> str | None:
    """Return what the official script reads as the score, without its checks: any text; None drops the video.

    It reads the text after the last line feed, so that an answer of one line is dropped, and one that ends with a line
    feed has an empty score, which is kept and not counted. Ranges are not checked.
    """
    _, separator, last = answer.rpartition("\n")
    return last.replace('"Score":', "").replace("{", "").replace("}", "").strip() if separator else None
