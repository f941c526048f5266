"""MkDocs hook: links from pages to files outside `docs` become links to the repository."""

import posixpath
import re
from typing import Any

LINK = re.compile(r"(?<=\]\()(\.\.?/[^)\s#]+)")


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Return the page with each relative link that leaves `docs` replaced by its address in the repository."""
    folder = posixpath.join("docs", posixpath.dirname(page.file.src_uri))

    def address(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, link[1]))
        return link[1] if path.startswith("docs/") else f"{config.repo_url.rstrip('/')}/blob/main/{path}"

    return LINK.sub(address, markdown)
