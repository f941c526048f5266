"""`cogvideox labels`: training on annotations, reports, predictions and label columns of the manifest."""

import json

import numpy as np
import pytest

pytest.importorskip("cv2")
pytest.importorskip("scenedetect")
pytest.importorskip("sklearn")

from cogvideox.cli.main import main
from cogvideox.curation.manifest import read_manifest, stage_records
from tests.unit.cli.curation.conftest import NUMBER


def test_report_on_the_test_sources(labelled, blurred_raw, capsys):
    arguments = ["labels", "report", str(labelled), "--test-fraction", "0.3", "--html", "--raw", str(blurred_raw)]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    row = next(line for line in printed.splitlines() if line.startswith("low_quality  signals"))
    assert "  1.00  " in row and "paper, its test set" in printed
    assert "<h2>Low quality</h2>" in (labelled / "labels.html").read_text()


def test_predictions_are_reported_like_models(labelled, tmp_path, capsys):
    assert main(["labels", "predict", str(labelled), "-o", str(tmp_path / "p.parquet")]) == 0
    assert "low_quality        12 of 24 clips" in capsys.readouterr().out
    assert main(["labels", "report", str(labelled), "--all", "--predictions", str(tmp_path / "p.parquet")]) == 0
    assert "low_quality  p  " in capsys.readouterr().out


def test_curate_adds_label_columns_and_applies_bounds_on_them(labelled, blurred_raw):
    recipe = blurred_raw.parent / "labelled.yaml"
    recipe.write_text(
        (blurred_raw.parent / "recipe.yaml").read_text()
        + f"labels: {{model: {labelled / 'labels.safetensors'}}}\n"
        + "keep: {bounds: [{column: labels.low_quality, at_most: 0.5}]}\n"
    )
    assert main(["curate", str(blurred_raw), str(labelled), "--recipe", str(recipe)]) == 0
    table = read_manifest(labelled)
    rows = {int(row["source"][:2]): row for row in table.to_pylist()}
    probabilities = np.array([rows[index]["labels.low_quality"] for index in range(NUMBER)])
    assert probabilities[1::2].min() > 0.5 > probabilities[::2].max()
    assert [rows[index]["status"] for index in range(4)] == ["ok", "dropped", "ok", "dropped"]
    assert stage_records(table)["labels"]["weights_hash"]


def test_a_model_needs_its_signals(labelled, blurred_raw, tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"signals: {{picture: {{}}}}\nlabels: {{model: {labelled / 'labels.safetensors'}}}\n")
    assert main(["curate", str(blurred_raw), str(tmp_path / "out"), "--recipe", str(recipe)]) == 2
    assert "stillness" in capsys.readouterr().err


def test_export(labelled, tmp_path, capsys):
    assert main(["labels", "export", str(labelled), str(tmp_path / "tasks.json"), "--url-prefix", "/raw/"]) == 0
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    assert len(tasks) == NUMBER and tasks[0]["data"]["video"].startswith("/raw/00.mp4#t=0.000,")
    assert main(["labels", "export", str(labelled), str(tmp_path / "annotations.parquet")]) == 0
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
def test_errors_are_one_sentence(labelled, capsys, arguments, message):
    assert main([str(labelled) if argument == "OUT" else argument for argument in arguments]) == 2
    assert message in capsys.readouterr().err


def test_help_lists_the_verbs(capsys):
    assert main(["labels"]) == 0
    printed = capsys.readouterr().out
    assert all(verb in printed for verb in ("train", "report", "predict", "import", "export"))
