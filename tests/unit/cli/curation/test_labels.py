"""`cogvideox labels`: from annotations of a curation to columns of its manifest."""

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("cv2")
pytest.importorskip("scenedetect")
pytest.importorskip("sklearn")

from cogvideox.cli.main import main
from cogvideox.curation.manifest import read_manifest, stage_records
from cogvideox.toybox.effects import camera, degradation
from cogvideox.video import io

NUMBER = 24


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    """Clips of which every second is blurred."""
    folder = tmp_path_factory.mktemp("labels") / "raw"
    folder.mkdir()
    for index in range(NUMBER):
        canvas = camera.texture(index, (160, 200), 1.0)
        clip = camera.film(canvas, camera.pan(18, (1.0, 0.4)), (64, 96))
        io.write(folder / f"{index:02d}.mp4", degradation.blur(clip, 3.0) if index % 2 else clip, 16.0)
    return folder


@pytest.fixture(scope="module")
def output(raw) -> Path:
    output = raw.parent / "out"
    (raw.parent / "recipe.yaml").write_text("signals: {picture: {}, stillness: {}}\nduplicates: {max_bits: -1}\n")
    assert main(["curate", str(raw), str(output), "--recipe", str(raw.parent / "recipe.yaml")]) == 0
    rows = ["clip_id,annotator,low_quality"]
    for row in read_manifest(output).to_pylist():
        rows.append(f"{row['id']},ann,{'true' if int(row['source'][:2]) % 2 else 'false'}")
    (raw.parent / "annotations.csv").write_text("\n".join(rows) + "\n")
    assert main(["labels", "import", str(output), str(raw.parent / "annotations.csv")]) == 0
    assert main(["labels", "train", str(output), "--test-fraction", "0.3"]) == 0
    return output


def test_report_on_the_test_sources(output, raw, capsys):
    arguments = ["labels", "report", str(output), "--test-fraction", "0.3", "--html", "--raw", str(raw)]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    row = next(line for line in printed.splitlines() if line.startswith("low_quality  signals"))
    assert "  1.00  " in row and "paper, its test set" in printed
    assert "<h2>Low quality</h2>" in (output / "labels.html").read_text()


def test_predictions_are_reported_like_models(output, tmp_path, capsys):
    assert main(["labels", "predict", str(output), "-o", str(tmp_path / "p.parquet")]) == 0
    assert "low_quality        12 of 24 clips" in capsys.readouterr().out
    assert main(["labels", "report", str(output), "--all", "--predictions", str(tmp_path / "p.parquet")]) == 0
    assert "low_quality  p  " in capsys.readouterr().out


def test_curate_adds_the_labels_and_selects_by_them(output, raw):
    recipe = raw.parent / "labelled.yaml"
    recipe.write_text(
        (raw.parent / "recipe.yaml").read_text()
        + f"labels: {{model: {output / 'labels.safetensors'}}}\n"
        + "keep: {bounds: [{column: labels.low_quality, at_most: 0.5}]}\n"
    )
    assert main(["curate", str(raw), str(output), "--recipe", str(recipe)]) == 0
    table = read_manifest(output)
    rows = {int(row["source"][:2]): row for row in table.to_pylist()}
    probabilities = np.array([rows[index]["labels.low_quality"] for index in range(NUMBER)])
    assert probabilities[1::2].min() > 0.5 > probabilities[::2].max()
    assert [rows[index]["status"] for index in range(4)] == ["ok", "dropped", "ok", "dropped"]
    assert stage_records(table)["labels"]["weights"]


def test_a_model_needs_its_signals(output, raw, tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"signals: {{picture: {{}}}}\nlabels: {{model: {output / 'labels.safetensors'}}}\n")
    assert main(["curate", str(raw), str(tmp_path / "out"), "--recipe", str(recipe)]) == 2
    assert "stillness" in capsys.readouterr().err


def test_export(output, tmp_path, capsys):
    assert main(["labels", "export", str(output), str(tmp_path / "tasks.json"), "--url-prefix", "/raw/"]) == 0
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    assert len(tasks) == NUMBER and tasks[0]["data"]["video"].startswith("/raw/00.mp4#t=0.000,")
    assert main(["labels", "export", str(output), str(tmp_path / "annotations.parquet")]) == 0
    assert "24 annotations" in capsys.readouterr().out
    assert main(["labels", "export", "--config"]) == 0
    assert '<Choice value="Low quality"' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["labels", "trian"], "did you mean train"),
        (["labels", "train"], "needs OUT"),
        (["labels", "train", "nowhere"], "not a folder"),
        (["labels", "import", "OUT"], "needs FILE"),
        (["labels", "import", "OUT", "a.txt"], "a.txt: annotations are .json"),
        (["labels", "export", "OUT"], "needs FILE"),
        (["labels", "report", "OUT", "--raw", "x"], "add --html"),
        (["labels", "report", "OUT", "--test-fraction", "1"], "below 1"),
        (["labels", "predict", "OUT", "--model", "none"], "no such file"),
    ],
)
def test_errors_are_one_sentence(output, capsys, arguments, message):
    assert main([str(output) if argument == "OUT" else argument for argument in arguments]) == 2
    assert message in capsys.readouterr().err


def test_help_lists_the_verbs(capsys):
    assert main(["labels"]) == 0
    printed = capsys.readouterr().out
    assert all(verb in printed for verb in ("train", "report", "predict", "import", "export"))
