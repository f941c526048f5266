"""`cogvideox plot`: charts from the metrics of runs."""

import json
import subprocess
import sys

import pytest

from cogvideox.cli.main import main
from cogvideox.records import Video


def write(folder, *, num_steps=40, scale=1.0):
    folder.mkdir(parents=True)
    lines = []
    for step in range(1, num_steps + 1):
        values = {"step": step, "loss": scale / step, "lr": 1e-3, "samples": 8 * step, "ms_per_step": 5.0}
        lines.append(values | {f"loss_{k}": scale * (k + 1) for k in range(10)})
        if step % 10 == 0:
            lines.append({"step": step, "validation/loss": 1.1 * scale / step, "validation/loss_3": 2.0})
    lines.append({"step": num_steps, "skipped": 1})
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 41, "lo')
    return folder


def test_two_runs_are_plotted_in_one_chart(tmp_path, capsys):
    first, second = write(tmp_path / "one"), write(tmp_path / "two", scale=2.0)
    assert main(["plot", str(first), str(second), "-o", str(tmp_path / "curves.svg")]) == 0
    svg = (tmp_path / "curves.svg").read_text()
    for words in ("one (1 step skipped)", "two", ">validation<", ">loss<", "learning rate", "loss by tenth"):
        assert words in svg
    assert "ms_per_step" not in svg
    assert main(["plot", str(first / "metrics.jsonl"), "-o", str(tmp_path / "curves.png")]) == 0
    height, width = Video.load(tmp_path / "curves.png").frames.shape[1:3]
    assert width > height > 400
    assert capsys.readouterr().out.split() == [str(tmp_path / "curves.svg"), str(tmp_path / "curves.png")]


def test_runs_with_the_same_name_get_distinct_labels(tmp_path):
    runs = [str(write(tmp_path / parent / "run")) for parent in "ab"]
    assert main(["plot", *runs, "-o", str(tmp_path / "curves.svg")]) == 0
    assert all(run in (tmp_path / "curves.svg").read_text() for run in runs)


def test_bad_input_is_reported_in_one_sentence(tmp_path, capsys):
    run, empty, skipped, other = write(tmp_path / "run"), tmp_path / "empty", tmp_path / "skipped", tmp_path / "other"
    for folder, text in (
        (empty, ""),
        (skipped, '{"step": 1, "skipped": 1}\n'),
        (other, "what is this?\nno run\n"),
    ):
        folder.mkdir()
        (folder / "metrics.jsonl").write_text(text)
    cases = {
        "missing RUN": [],
        "is not the folder of a training run": [str(tmp_path)],
        "has no metrics yet": [str(empty)],
        "no metrics have been logged yet by skipped (1 step skipped)": [str(skipped)],
        "not written by a training run": [str(other)],
        "ends in .svg or .png": [str(run), "-o", str(tmp_path / "curves.pdf")],
        "cannot write": [str(run), "-o", str(run / "metrics.jsonl" / "curves.svg")],
    }
    for sentence, arguments in cases.items():
        assert main(["plot", *arguments]) == 2
        error = capsys.readouterr().err
        assert sentence in error and error.count("\n") == 1


def test_without_matplotlib_the_extra_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["plot", str(write(tmp_path / "run")), "-o", str(tmp_path / "curves.svg")]) == 2
    error = capsys.readouterr().err
    assert "pip install 'cogvideox[train]'" in error and error.count("\n") == 1
    assert not (tmp_path / "curves.svg").exists()


@pytest.mark.parametrize("module", ["cogvideox.training.metrics.curves", "cogvideox.cli.plot"])
def test_importing_needs_neither_torch_nor_matplotlib(module):
    code = f"import sys, {module}; sys.exit(bool({{'torch', 'matplotlib'}} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_number_of_metric_names_is_limited(tmp_path, capsys, monkeypatch):
    """A chart has a panel for each name, so a file with too many names would use up the memory."""
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1} | {f"m{k}": 1.0 for k in range(200)}))
    argv = ["plot", str(tmp_path), "-o", str(tmp_path / "curves.svg")]
    assert main(argv) == 2
    assert "the number of metrics in" in (error := capsys.readouterr().err) and "above the limit of 200" in error
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1, "a": 1.0, "b": 2.0}))
    for limit, status in ("2", 2), ("3", 0):
        assert not (tmp_path / "curves.svg").exists()
        monkeypatch.setenv("COGVIDEOX_MAX_METRICS", limit)
        assert main(argv) == status
