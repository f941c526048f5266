"""The documentation names what exists: packages, files and tests."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
PACKAGES = {file.parent.name for file in (ROOT / "cogvideox").glob("*/__init__.py")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_path_in_the_repository_exists(page: Path):
    text = page.read_text(encoding="utf-8")
    for path, test in re.findall(r"`((?:cogvideox|tests|tools|examples|benchmarks)/[\w./-]+)(?:::(\w+))?`", text):
        assert (ROOT / path).exists(), path
        assert not test or f"def {test}(" in (ROOT / path).read_text(), f"{path} has no {test}"


def test_architecture_lists_every_package():
    text = (ROOT / "docs/architecture.md").read_text()
    assert set(re.findall(r"^\| \d \| `cogvideox/(\w+)` ", text, re.MULTILINE)) == PACKAGES
    modules = {file.stem for file in (ROOT / "cogvideox").glob("*.py")} - {"__init__", "__main__"}
    (row,) = re.findall(r"^\| \d \| modules \|(.*)\|$", text, re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", row)) == modules


def test_paths_in_the_index_of_the_architecture_page_exist():
    index = (ROOT / "docs/architecture.md").read_text().split("## Where to find what")[1].split("\n## ")[0]
    paths = re.findall(r"`([a-z0-9_/]+(?:/|\.py)[a-z0-9_/.]*)`", index)
    assert len(paths) > 50
    assert [path for path in paths if not (ROOT / "cogvideox" / path).exists()] == []


def test_the_reference_has_a_page_for_every_package_and_module():
    pages = {page.stem for page in (ROOT / "docs/reference").glob("*.md")}
    assert pages == PACKAGES | {"index", "cogvideox", "modules"}
    modules = {file.stem for file in (ROOT / "cogvideox").glob("*.py")} - {"__init__", "__main__"}
    listed = re.findall(r"^::: cogvideox\.(\w+)$", (ROOT / "docs/reference/modules.md").read_text(), re.MULTILINE)
    assert set(listed) == modules


def test_curation_describes_every_column_of_signals():
    from cogvideox.curation.signals.registry import SIGNALS

    text = (ROOT / "docs/curation.md").read_text()
    for name, signal in SIGNALS.items():
        assert f"| `{name}` | " in text, name
        for column in signal.columns:
            assert f"| `{column.name}` | {column.description} | {column.unit} | " in text, column.name
