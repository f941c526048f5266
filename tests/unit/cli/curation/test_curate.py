"""`cogvideox curate` and `cogvideox funnel` from the command line."""

import re
from pathlib import Path

import pytest

pytest.importorskip("cv2")
pytest.importorskip("scenedetect")

from cogvideox.cli.main import main
from cogvideox.curation import stage
from cogvideox.curation.manifest import read_manifest
from tests.unit.curation.raw_files import make_raw

FAST = ["signals.phash.num_frames=2", "signals.stillness.change_fps=2"]


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    return make_raw(tmp_path_factory.mktemp("curate") / "raw")


def test_curate_writes_manifest_list_recipe_and_page(raw, tmp_path, capsys):
    (tmp_path / "recipe.yaml").write_text("signals:\n  phash: {}\n  stillness: {}\n")
    command = ["curate", str(raw), str(tmp_path / "out"), "--recipe", str(tmp_path / "recipe.yaml"), *FAST]
    assert main(command) == 0
    printed = capsys.readouterr()
    assert re.search(r"12 files|11 files", printed.err)
    assert "of video; estimated time without cached results" in printed.err
    assert re.search(r"duplicates +6 +0\.00 h", printed.out)
    assert "-1  a near-duplicate of another" in printed.out
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {
        "manifest.parquet",
        "metadata.parquet",
        "recipe.yaml",
        "funnel.html",
    }
    page = (tmp_path / "out/funnel.html").read_text()
    assert page.count("data:image/jpeg") > 5
    assert "<script" not in page and "http" not in page
    for text in ("stillness.change", "an exact copy of another", "shorter than 1 s", "it is empty"):
        assert text in page
    assert main(command) == 0
    assert "nothing to compute" in capsys.readouterr().out
    assert main(["funnel", str(tmp_path / "out")]) == 0
    assert "clips found" in capsys.readouterr().out
    assert read_manifest(tmp_path / "out").num_rows == 13


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["curate", "x"], "curate needs RAW (a folder"),
        (["curate", "nowhere", "out"], "nowhere is not a folder"),
        (["curate", "x", "out", "split.min_second=2"], "did you mean split.min_seconds?"),
        (["curate", "x", "out", "min"], "'min' is not a setting"),
        (["curate", "x", "out", "--shard", "3/2"], "shard 3/2 does not exist"),
        (["funnel"], "funnel needs OUT"),
        (["funnel", "out", "--raw", "raw"], "--raw adds thumbnails to the page: add --html"),
        (["funnel", "nowhere"], "nowhere does not exist"),
    ],
)
def test_user_errors_are_one_sentence(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_missing_packages_are_named_before_anything_starts(raw, tmp_path, monkeypatch, capsys):
    find_spec = stage.find_spec
    monkeypatch.setattr(stage, "find_spec", lambda name: None if name == "scenedetect" else find_spec(name))
    assert main(["curate", str(raw), str(tmp_path / "out")]) == 2
    assert (
        "stage split cannot run: scenedetect is not installed: pip install 'cogvideox[curate]'"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "out").exists()
