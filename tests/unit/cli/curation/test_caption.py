import json

import numpy as np
import pytest

from cogvideox.cli.main import main
from cogvideox.toybox.render.renderer import render_scene
from cogvideox.toybox.scenes.sampler import sample_scene
from cogvideox.video import io

PIPELINE = """
short: {kind: toybox}
frames: {kind: toybox}
summary: {kind: rules}
measure: []
"""


def test_caption_and_report(tmp_path, capsys):
    pytest.importorskip("cv2")
    scene = sample_scene(np.random.default_rng(0), "core", split="all")
    io.write(tmp_path / "in/a.mp4", np.asarray(render_scene(scene, num_frames=9, height=64, width=96)), 8.0)
    (tmp_path / "pipeline.yaml").write_text(PIPELINE)
    (tmp_path / "references.json").write_text('{"a.mp4": "a toy on the floor"}')
    arguments = ["caption", str(tmp_path / "in"), str(tmp_path / "out"), "--pipeline", str(tmp_path / "pipeline.yaml")]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "1 ok" in out and "summary: no problems" in out and "cost 0" in out
    report = ["caption", "report", str(tmp_path / "out"), "--references", str(tmp_path / "references.json")]
    assert main(report) == 0
    assert "summary: rouge_l 0." in capsys.readouterr().out
    assert (tmp_path / "out/captions.html").is_file() and (tmp_path / "out/quality.json").is_file()
    assert main(["caption", "regenerate", str(tmp_path / "out"), "--model", "toybox"]) == 0
    assert "videos of other captions" not in capsys.readouterr().out  # there is one clip
    assert json.loads((tmp_path / "out/regeneration.json").read_text())["agreement"]["color"]["value"] in (0.0, 1.0)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["caption"], "caption needs IN, OUT and --pipeline FILE"),
        (["caption", "in", "out"], "caption needs IN, OUT and --pipeline FILE"),
        (["caption", "in", "out", "--pipeline", "none.yaml"], "cannot read none.yaml"),
        (["caption", "report"], "caption report needs OUT"),
        (["caption", "report", "none"], "cannot read none"),
        (["caption", "regenerate"], "caption regenerate needs OUT"),
        (["caption", "regenerate", "none"], "none is not an output folder of"),
        (["caption", "regenerate", "none", "--judge", "j.yaml"], "accepts only --model and --limit"),
        (["caption", "regenerate", "none", "--budget", "0"], "accepts only --model and --limit"),
        (["caption", "in", "out", "--pipeline", "x.yaml", "--model", "toybox"], "--model is an option of"),
    ],
)
def test_errors_are_one_sentence(arguments, reason, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert reason in error and error.count("\n") == 1 and list(tmp_path.iterdir()) == []
