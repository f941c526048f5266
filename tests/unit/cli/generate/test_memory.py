"""The memory options of `cogvideox generate`, and the latents that it keeps when decoding or saving fails."""

import json
import re

import numpy as np
import pytest

from cogvideox.generation import runner
from cogvideox.generation.pipeline import CogVideoX
from cogvideox.transformer.acceleration.float8 import to_float8
from cogvideox.vae.model import CausalVAE
from cogvideox.video import io

PROMPT = "a red ball"


def test_plan_prints_the_memory_plan_and_generates_nothing(run, model, workdir):
    result = run("generate", PROMPT, "--model", model, "--plan", "--num-frames", "49")
    assert result.status == 0 and list(workdir.iterdir()) == []
    assert "everything in memory, float32" in result.out and "estimate" in result.out
    assert [line.split()[0] for line in result.out.splitlines()[1:]] == ["load", "text", "denoise", "decode", "speed"]


def test_plan_with_a_prompt_file_creates_no_folder(run, model, workdir):
    (workdir / "p.txt").write_text("a red ball\na blue cube\n")
    result = run("generate", "--prompts", "p.txt", "--model", model, "-o", "videos", "--plan")
    assert result.status == 0 and "everything in memory" in result.out
    assert [path.name for path in workdir.iterdir()] == ["p.txt"]


def test_the_plan_is_printed_even_if_all_videos_exist(run, model, workdir):
    (workdir / "p.txt").write_text("a red ball\n")
    options = ("generate", "--prompts", "p.txt", "--model", model, "-o", "videos", "--num-inference-steps", 1)
    assert run(*options).status == 0
    assert "everything in memory" in run(*options, "--plan").out


def test_the_same_video_with_less_memory(run, model, workdir):
    for name, memory in (("a", "speed"), ("b", "low"), ("c", "2GB")):
        result = run("generate", PROMPT, "--model", model, "--seed", 3, "-o", f"{name}.png", "--memory", memory)
        assert result.status == 0
        assert ("plan: " in result.err) == (memory == "low")
    frames = [io.read(workdir / f"{name}.png")[0].astype(int) for name in "abc"]
    assert np.abs(frames[0] - frames[1]).max() <= 1 and np.array_equal(frames[0], frames[2])


def test_int8_is_reported_and_restored_from_the_sidecar(run, model, workdir):
    result = run("generate", PROMPT, "--model", model, "-o", "x.mp4", "--weights", "int8")
    assert result.status == 0 and "not exact" in result.err
    assert json.loads((workdir / "x.json").read_text())["weights"] == "int8"
    assert "not exact" in run("generate", "--from", "x.json", "-o", "y.mp4").err


def test_videos_made_with_other_weights_do_not_count_as_existing(run, model, workdir):
    (workdir / "p.txt").write_text("a red ball\n")
    command = ("generate", "--prompts", "p.txt", "--model", model, "-o", "videos")
    assert run(*command).status == 0
    assert "other settings: pass --overwrite" in run(*command, "--weights", "int8").err
    assert "already exist" not in run(*command, "--weights", "int8", "--overwrite").err
    assert "1 of 1 videos already exist" in run(*command, "--weights", "int8").err


@pytest.mark.parametrize("options", [["--memory", "much"], ["--memory", "0.001GB"], ["--weights", "int4"]])
def test_impossible_memory_options_are_errors(run, model, workdir, options):
    result = run("generate", PROMPT, "--model", model, "-o", "x.mp4", *options)
    assert result.status == 2 and len(result.err.splitlines()) == 1 and list(workdir.iterdir()) == []


@pytest.mark.parametrize("plan", [[], ["--plan"]])
def test_float8_without_a_gpu_is_an_error_before_weights_are_read(run, model, workdir, plan):
    result = run("generate", PROMPT, "--model", model, "-o", "x.mp4", "--float8", *plan)
    assert result.status == 2 and len(result.err.splitlines()) == 1 and list(workdir.iterdir()) == []
    assert "float8 needs a GPU" in result.err


def test_float8_is_restored_unless_disabled(run, model, workdir):
    video = CogVideoX.from_pretrained(model, "cpu")
    to_float8(video.model.transformer)
    video.generate(PROMPT, seed=1).save(workdir / "x.mp4")
    assert "leave it out (--no-float8)" in run("generate", "--from", "x.json", "-o", "y.mp4").err
    assert run("generate", "--from", "x.json", "-o", "y.mp4", "--no-float8").status == 0
    assert "float8" not in json.loads((workdir / "y.json").read_text())
    (workdir / "prompts.txt").write_text(PROMPT)
    command = ("generate", "--prompts", "prompts.txt", "--model", model, "-o", "videos", "--seed", 1)
    assert run(*command).status == 0 and "1 of 1 videos already exist" in run(*command).err
    assert "float8 needs a GPU" in run(*command, "--float8", "--overwrite").err


def test_after_a_failure_to_decode_the_next_run_continues_from_the_latents(run, model, workdir, monkeypatch):
    command = ("generate", PROMPT, "--model", model, "--seed", 5, "-o", "x.mp4")
    with monkeypatch.context() as broken:
        broken.setattr(CausalVAE, "decode_stream", lambda *args, **kwargs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(*command)
    assert [path.name for path in workdir.iterdir()] == ["x.latents.safetensors"]
    monkeypatch.setattr("cogvideox.generation.runner.denoise", lambda *args, **kwargs: 1 / 0)
    assert run(*command).status == 0
    assert sorted(path.name for path in workdir.iterdir()) == ["x.json", "x.mp4"]


def test_with_several_videos_the_next_run_continues_with_the_reported_seed(run, model, workdir, monkeypatch, capsys):
    command = ("generate", PROMPT, "--model", model, "--num-videos", 2, "-o", "x.mp4")
    decode, decoded = CausalVAE.decode_stream, []

    def fail_at_the_second(vae, *args, **kwargs):
        decoded.append(1)
        return decode(vae, *args, **kwargs) if len(decoded) == 1 else 1 / 0

    with monkeypatch.context() as broken:
        broken.setattr(CausalVAE, "decode_stream", fail_at_the_second)
        with pytest.raises(ZeroDivisionError):
            run(*command)
    seed = re.search(r"x-2.latents.safetensors; the same command with --seed (\d+) continues", capsys.readouterr().err)[
        1
    ]
    (workdir / "x-1.mp4").rename(workdir / "first.mp4")
    denoise, denoised = runner.denoise, []
    monkeypatch.setattr(runner, "denoise", lambda *args, **kwargs: denoised.append(1) or denoise(*args, **kwargs))
    assert run(*command, "--seed", seed).status == 0
    assert len(denoised) == 1 and (workdir / "x-1.mp4").read_bytes() == (workdir / "first.mp4").read_bytes()
