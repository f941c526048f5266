"""`cogvideox evaluate`: wrong arguments are errors of one sentence; compare and export read what evaluate wrote."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cogvideox import CogVideoX
from cogvideox.cli.evaluate.command import run
from cogvideox.errors import UserError
from cogvideox.generation.request.input_sources import source_of_file
from cogvideox.records import Video
from cogvideox.toybox.render.renderer import render_scene
from cogvideox.toybox.scenes.sampler import sample_scene
from cogvideox.transformer.lora.inject import create_lora
from cogvideox.transformer.lora.io import write_lora


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
    with pytest.raises(UserError, match="--lora only applies to models"):
        run([str(tmp_path / "a"), "-o", str(tmp_path / "out"), "--lora", "style.safetensors"])
    with pytest.raises(UserError, match="--guidance-scale only applies to models"):
        run([str(tmp_path / "a"), "-o", str(tmp_path / "out"), "--guidance-scale", "2"])


def test_a_model_is_scored_with_a_lora(tmp_path: Path, capsys):
    model = CogVideoX.from_pretrained("toybox").model.transformer
    lora = create_lora(model, torch.Generator().manual_seed(0), rank=2)
    for factors in lora.layers.values():
        factors.up.normal_(std=0.5, generator=torch.Generator().manual_seed(1))
    write_lora(lora, tmp_path / "style.safetensors")
    small = ["toybox", "--num-prompts", "1", "--set", "groups=core", "--num-inference-steps", "1"]
    small += ["--num-frames", "5", "--height", "32", "--width", "32"]
    run([*small, "-o", str(tmp_path / "base")])
    assert "loras" not in capsys.readouterr().out
    adapted = [*small, "--lora", f"{tmp_path / 'style.safetensors'}:0.5", "-o", str(tmp_path / "adapted")]
    run(adapted)
    digest = source_of_file(tmp_path / "style.safetensors").digest
    assert f"loras={digest[:8]}:0.5" in capsys.readouterr().out
    frames = [Video.load(next((tmp_path / name / "videos").glob("*.mp4"))).frames for name in ("base", "adapted")]
    assert not np.array_equal(*frames)
    video = next((tmp_path / "adapted/videos").glob("*.mp4"))
    time = video.stat().st_mtime_ns
    run(adapted)  # the video is not generated again
    assert video.stat().st_mtime_ns == time
    with pytest.raises(UserError, match="has videos of a different run"):
        run([*adapted[:-3], f"{tmp_path / 'style.safetensors'}:0.9", *adapted[-2:]])
