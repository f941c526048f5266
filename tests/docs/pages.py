"""Reads the Markdown pages: their links, their code blocks and what was said about each block.

A `bash` or `python` block is run by the tests as it stands, in an empty folder, unless the line above it is a comment
that gives a reason: `<!-- not run: takes two hours -->`. Its commands must exist all the same.
"""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])

_BLOCK = re.compile(r"(?:<!-- not run: (?P<reason>[^>]+) -->\n)?```(?P<language>\w*)\n(?P<code>.*?)\n```", re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"")


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    code: str
    reason: str | None

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(*languages: str) -> list[Block]:
    """Every block of the pages in one of these languages, in order."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in _BLOCK.finditer(text):
            if match["language"] in languages:
                line = text[: match.start("code")].count("\n") + 1
                found.append(Block(page, line, match["language"], match["code"], match["reason"]))
    return found


def commands() -> list[tuple[Block, list[str]]]:
    """Every command of every `bash` block, as its words; continued lines are one command, comments none."""
    found = []
    for block in blocks("bash"):
        for line in block.code.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                found.append((block, words))
    return found


def links(page: Path) -> list[str]:
    """Targets of a page's links and pictures, code left out."""
    text = re.sub(r"```.*?```|`[^`]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return [one or other for one, other in _LINK.findall(text)]


def anchors(page: Path) -> set[str]:
    """What a link can have after its `#`: the headings of a page, as GitHub names them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
