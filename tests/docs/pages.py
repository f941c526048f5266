"""Parser for the Markdown pages: links, code blocks, and which blocks are not run.

The tests run every `bash` and `python` block in an empty folder, except blocks with a comment above them that gives a
reason: `<!-- not run: takes two hours -->`. The commands in such a block must still exist.
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
    """Return all blocks of the pages in one of these languages, in order."""
    collected = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in _BLOCK.finditer(text):
            if match["language"] in languages:
                line = text[: match.start("code")].count("\n") + 1
                collected.append(Block(page, line, match["language"], match["code"], match["reason"]))
    return collected


def commands() -> list[tuple[Block, list[str]]]:
    """Return all commands of `bash` blocks, split into words; continued lines are joined and comments dropped."""
    collected = []
    for block in blocks("bash"):
        for line in block.code.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                collected.append((block, words))
    return collected


def links(page: Path) -> list[str]:
    """Return the targets of a page's links and images, outside of code."""
    text = re.sub(r"```.*?```|`[^`]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return [markdown or html for markdown, html in _LINK.findall(text)]


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page: its headings, converted as on GitHub."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
