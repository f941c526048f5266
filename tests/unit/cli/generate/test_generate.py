"""`cogvideox generate`: its output files, and reproducing them."""

import json
import os
import signal

import pytest

from cogvideox.cli.common.writable import check_writable
from cogvideox.errors import UserError
from cogvideox.records import Video
from cogvideox.transformer.model import Transformer

PROMPT = "a red ball moves to the right on a blue floor"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_generate_writes_a_video_and_its_sidecar(run, model, workdir):
    result = run("generate", PROMPT, "-o", "x.mp4", "--model", model, "--seed", 3)
    assert result.status == 0, result.err
    assert names(workdir) == ["x.json", "x.mp4"]
    video = Video.load(workdir / "x.mp4")
    assert video.frames.shape == (9, 32, 48, 3) and video.fps == 8
    sidecar = json.loads((workdir / "x.json").read_text())
    assert (sidecar["prompt"], sidecar["seed"], sidecar["model"]) == (PROMPT, 3, str(model))
    # One line with the path, the duration and the size.
    assert result.out.count("\n") == 1 and result.out.startswith("x.mp4") and " kB" in result.out and " s" in result.out


def test_from_reproduces_the_video(run, model, workdir):
    run("generate", PROMPT, "-o", "x.png", "--model", model, "--sampler", "dpm++", "--num-inference-steps", 3)
    assert run("generate", "--from", "x.json", "-o", "again.png").status == 0
    assert (workdir / "again.png").read_bytes() == (workdir / "x.png").read_bytes()
    assert json.loads((workdir / "again.json").read_text()) == json.loads((workdir / "x.json").read_text())
    assert run("generate", "--from", "x.json", "-o", "other.png", "--seed", 1, "--no-dynamic-guidance").status == 0
    assert (workdir / "other.png").read_bytes() != (workdir / "x.png").read_bytes()


@pytest.mark.parametrize("ending", ["mp4", "gif", "png"])
def test_each_format_is_written(run, model, workdir, ending):
    assert run("generate", PROMPT, "-o", f"a/b/x.{ending}", "--model", model, "--num-frames", 5).status == 0
    assert names(workdir / "a/b") == sorted(["x.json", f"x.{ending}"])


def test_several_videos_with_sheets(run, model, workdir):
    result = run("generate", PROMPT, "-o", "x.mp4", "--model", model, "--num-videos", 2, "--seed", 4, "--sheet")
    assert result.status == 0 and result.out.count("\n") == 2
    assert names(workdir) == [f"x-{i}{end}" for i in (1, 2) for end in ("-sheet.png", ".json", ".mp4")]
    assert [json.loads((workdir / f"x-{i}.json").read_text())["seed"] for i in (1, 2)] == [4, 5]
    assert run("generate", "--from", "x-2.json", "-o", "again.png").status == 0
    assert (workdir / "again.png").read_bytes() == (workdir / "x-2-sheet.png").read_bytes()


def test_the_default_name_comes_from_the_prompt(run, model, workdir):
    assert run("generate", "A red, RED ball!", "--model", model, "--seed", 9).status == 0
    assert names(workdir) == ["a-red-red-ball-9.json", "a-red-red-ball-9.mp4"]
    (workdir / "videos").mkdir()
    assert run("generate", "ball", "-o", "videos", "--model", model, "--seed", 9).status == 0
    assert names(workdir / "videos") == ["ball-9.json", "ball-9.mp4"]


def test_the_default_prompt_is_the_models_example(run, model, workdir):
    assert run("generate", "-o", "x.mp4", "--model", model).status == 0
    assert json.loads((workdir / "x.json").read_text())["prompt"] == PROMPT


def test_fps_is_written_to_the_video(run, model, workdir):
    assert run("generate", PROMPT, "-o", "x.mp4", "--model", model, "--fps", 12).status == 0
    assert Video.load(workdir / "x.mp4").fps == 12


def test_a_size_outside_of_training_is_noted(run, model, workdir):
    result = run("generate", PROMPT, "-o", "x.mp4", "--model", model, "--num-frames", 21)
    assert (
        result.status == 0 and "note: --num-frames 21 is outside the range that this model was trained on" in result.err
    )


def test_a_sidecar_repeated_without_guidance(run, model, workdir):
    """Guidance options of the sidecar no longer count; giving one now is an error."""
    guidance = ("--dynamic-guidance", "--negative-prompt", "one small thing")
    run("generate", PROMPT, "-o", "x.mp4", "--model", model, *guidance)
    assert run("generate", "--from", "x.json", "-o", "y.mp4", "--guidance-scale", 1).status == 0
    sidecar = json.loads((workdir / "y.json").read_text())
    assert (sidecar["negative_prompt"], sidecar["dynamic_guidance"], sidecar["prompt"]) == ("", False, PROMPT)
    assert run("generate", "--from", "x.json", "-o", "z.mp4", "--guidance-scale", 1, guidance[0]).status == 2


def test_a_high_frame_rate_is_noted(run, model, workdir):
    result = run("generate", PROMPT, "-o", "x.mp4", "--model", model, "--fps", 24, "--plan")
    assert "note: 9 frames at 24 fps play for 0.4 s, faster than the 8 fps of the model" in result.err


def test_a_frame_rate_that_the_format_does_not_support_is_noted(run, model, workdir):
    result = run("generate", PROMPT, "-o", "x.gif", "--model", model, "--fps", 60)
    assert (
        result.status == 0
        and "cogvideox: note: gif files have at most 50 fps, so this file plays slower than requested\n" in result.err
    )


def test_an_existing_video_of_other_settings_is_not_overwritten(run, model, workdir):
    command = ("generate", PROMPT, "-o", "x.mp4", "--model", model)
    assert run(*command, "--seed", 1).status == 0
    before = (workdir / "x.mp4").read_bytes()
    result = run(*command, "--seed", 2)
    assert result.status == 2 and "x.mp4 exists and has other settings: pass --overwrite" in result.err
    assert (workdir / "x.mp4").read_bytes() == before
    assert run(*command, "--seed", 1).status == 0
    assert run(*command, "--seed", 2, "--overwrite").status == 0
    assert json.loads((workdir / "x.json").read_text())["seed"] == 2


def test_formats_of_one_name_have_a_sidecar_each(run, model, workdir):
    for seed, ending in enumerate(("mp4", "gif", "png"), start=1):
        assert run("generate", PROMPT, "-o", f"x.{ending}", "--model", model, "--seed", seed).status == 0
    sidecars = {"x.json": 1, "x.gif.json": 2, "x.png.json": 3}
    assert names(workdir) == sorted([*sidecars, "x.mp4", "x.gif", "x.png"])
    assert {name: json.loads((workdir / name).read_text())["seed"] for name in sidecars} == sidecars
    assert run("generate", PROMPT, "-o", "x.mp4", "--model", model, "--seed", 4, "--overwrite").status == 0
    assert {name: json.loads((workdir / name).read_text())["seed"] for name in sidecars} == sidecars | {"x.json": 4}


def test_ctrl_c_leaves_no_files(run, model, workdir, monkeypatch):
    forward, steps = Transformer.forward, []

    def interrupted(*given, **named):
        steps.append(None)
        if len(steps) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return forward(*given, **named)

    monkeypatch.setattr(Transformer, "forward", interrupted)
    # Shells start background jobs, which these tests may be, with Ctrl-C disabled.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        result = run("generate", PROMPT, "-o", "x.mp4", "--model", model, "--num-inference-steps", 9)
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(steps) == 2
    assert result.status == 130 and "interrupted" in result.err
    assert names(workdir) == []


def test_too_little_disk_space_is_an_error_before_the_work_starts(workdir):
    check_writable(workdir / "a/b/x.mp4", 1000)
    with pytest.raises(UserError, match=r"the disk has [\d.]+ [kMGT]?B left"):
        check_writable(workdir / "x.mp4", 10**18)
    assert names(workdir) == []
