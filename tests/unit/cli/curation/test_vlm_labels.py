"""`cogvideox labels train --vlm` and `predict --vlm`, with a tiny random model."""

import pytest

pytest.importorskip("transformers")
pytest.importorskip("peft")
pytest.importorskip("cv2")

from cogvideox.cli.main import main
from tests.unit.training.labels.tiny_vlm import write_tiny_vlm


@pytest.mark.slow
def test_train_and_predict(labelled, blurred_raw, tmp_path, capsys):
    base = str(write_tiny_vlm(tmp_path / "base"))
    settings = [f"--set={name}" for name in ("num_steps=3", "num_frames=2", "longest_side=48", "rank=2")]
    folder, table = str(tmp_path / "filter"), str(tmp_path / "vlm.parquet")
    arguments = ["labels", "train", str(labelled), "--vlm", base, "--raw", str(blurred_raw), "--model", folder]
    assert main([*arguments, "--answer", "chat", *settings]) == 0
    assert main(["labels", "predict", str(labelled), "--vlm", folder, "--raw", str(blurred_raw), "-o", table]) == 0
    capsys.readouterr()
    assert main(["labels", "report", str(labelled), "--all", "--predictions", table]) == 0
    assert "low_quality  vlm  " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "OUT", "--vlm", "nowhere"], "add --raw"),
        (["train", "OUT", "--vlm", "nowhere", "--raw", "RAW"], "no config.json"),
        (["train", "OUT", "--vlm", "nowhere", "--raw", "RAW", "--set", "steps"], "write name=value"),
        (["train", "OUT", "--set", "num_steps=1"], "add --vlm"),
        (["predict", "OUT", "--raw", "RAW"], "add --vlm or --endpoint"),
        (["predict", "OUT", "--endpoint", "http://127.0.0.1:9/v1", "--raw", "RAW"], "--endpoint-model"),
        (["predict", "OUT", "--vlm", "x", "--endpoint", "http://127.0.0.1:9/v1"], "cannot be combined"),
        (["predict", "OUT", "--vlm", "nowhere", "--raw", "RAW"], "labels.json"),
    ],
)
def test_errors_are_one_sentence(labelled, blurred_raw, capsys, arguments, message):
    places = {"OUT": str(labelled), "RAW": str(blurred_raw)}
    assert main(["labels", *(places.get(argument, argument) for argument in arguments)]) == 2
    assert message in capsys.readouterr().err
