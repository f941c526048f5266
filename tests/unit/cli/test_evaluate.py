"""`cogvideox evaluate`: wrong arguments are errors of one sentence; compare and export read what evaluate wrote."""

from pathlib import Path

import pytest

from cogvideox.cli.evaluate.command import run
from cogvideox.errors import UserError
from cogvideox.records import Video
from cogvideox.toybox.render.renderer import render_scene
from cogvideox.toybox.scenes.sampler import sample_scene


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "missing FOLDER"),
        (["toybox"], "missing FOLDER"),
        (["toybox", "-o", "out", "--num-prompts", "0"], "--num-prompts 0 must be 1 or more"),
        (["toybox", "-o", "out", "--set", "groups"], "must be NAME=VALUE"),
        (["toybox", "-o", "out", "--set", "groups=all"], "unknown group"),
        (["toybox", "-o", "out", "--suite", "vbenhc"], "unknown suite"),
        (["toybox", "-o", "out", "--prompts", "p.txt"], "has its own prompts"),
        (["toybox", "-o", "out", "--suite", "reconstruction", "--seed", "3"], "--seed does not apply"),
        (["toybox", "-o", "out", "--suite", "mtscore"], "needs --prompts"),
        (["compare", "a"], "needs A and B"),
        (["compare", "a", "b"], "a has no results.json"),
        (["export", "a"], "needs OUT"),
    ],
)
def test_wrong_arguments_are_errors(arguments: list[str], message: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        run(arguments)
    assert not list(tmp_path.iterdir())


def test_a_folder_is_scored_compared_and_exported(tmp_path: Path, capsys):
    for folder, scene in (("a", sample_scene(1)), ("b", sample_scene(2))):
        for number in range(2):
            frames = render_scene(scene, num_frames=9, height=64, width=64, fps=8.0).numpy()
            facts = sample_scene(1).facts
            prompt = f"a {facts['color']} {facts['shape']} on a {facts['background']} floor"
            Video(frames, 8.0).save(tmp_path / folder / f"{prompt}-{number}.mp4")
        run([str(tmp_path / folder), "-o", str(tmp_path / f"out-{folder}")])
    printed = capsys.readouterr().out
    assert "toybox/all" in printed and "100.0 %, N=2" in printed and "weights              unknown" in printed
    assert (tmp_path / "out-a/report.html").stat().st_size > 5_000
    run(["compare", str(tmp_path / "out-a"), str(tmp_path / "out-b"), "-o", str(tmp_path / "compare.md")])
    assert "2 pairs of videos" in capsys.readouterr().out and (tmp_path / "compare.md").is_file()
    run(["export", str(tmp_path / "out-a"), "-o", str(tmp_path / "official")])
    assert len(list((tmp_path / "official/videos").iterdir())) == 2
    with pytest.raises(UserError, match="--guidance-scale only applies to models"):
        run([str(tmp_path / "a"), "-o", str(tmp_path / "out"), "--guidance-scale", "2"])
