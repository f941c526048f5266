"""What `cogvideox generate` says of memory, and what it keeps when something fails late."""

import json

import numpy as np
import pytest

from cogvideox.vae.model import CausalVAE
from cogvideox.video import io

PROMPT = "a red ball"


def test_the_plan_is_told_and_nothing_made(run, model, here):
    ran = run("generate", PROMPT, "--model", model, "--plan", "--num-frames", "49")
    assert ran.status == 0 and list(here.iterdir()) == []
    assert "everything in memory, float32" in ran.out and "estimate" in ran.out
    assert [line.split()[0] for line in ran.out.splitlines()[1:]] == ["load", "text", "denoise", "decode"]


def test_the_same_video_with_less_memory(run, model, here):
    for name, memory in (("a", "speed"), ("b", "low"), ("c", "2GB")):
        ran = run("generate", PROMPT, "--model", model, "--seed", 3, "-o", f"{name}.png", "--memory", memory)
        assert ran.status == 0
        assert ("plan: " in ran.err) == (memory == "low")
    frames = [io.read(here / f"{name}.png")[0].astype(int) for name in "abc"]
    assert np.abs(frames[0] - frames[1]).max() <= 1 and np.array_equal(frames[0], frames[2])


def test_one_byte_weights_are_said_and_replayed(run, model, here):
    ran = run("generate", PROMPT, "--model", model, "-o", "x.mp4", "--weights", "int8")
    assert ran.status == 0 and "not exact" in ran.err
    assert json.loads((here / "x.json").read_text())["weights"] == "int8"
    assert "not exact" in run("generate", "--from", "x.json", "-o", "y.mp4").err


@pytest.mark.parametrize("options", [["--memory", "much"], ["--memory", "0.001GB"], ["--weights", "int4"]])
def test_what_cannot_be_is_one_sentence(run, model, here, options):
    ran = run("generate", PROMPT, "--model", model, "-o", "x.mp4", *options)
    assert ran.status == 2 and len(ran.err.splitlines()) == 1 and list(here.iterdir()) == []


def test_finished_latents_outlive_a_failure_and_are_decoded_by_the_next_run(run, model, here, monkeypatch):
    command = ("generate", PROMPT, "--model", model, "--seed", 5, "-o", "x.mp4")
    with monkeypatch.context() as broken:
        broken.setattr(CausalVAE, "decode_stream", lambda *args, **kwargs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(*command)
    assert [path.name for path in here.iterdir()] == ["x.latents.safetensors"]
    monkeypatch.setattr("cogvideox.generation.make.denoise", lambda *args, **kwargs: 1 / 0)
    assert run(*command).status == 0
    assert sorted(path.name for path in here.iterdir()) == ["x.json", "x.mp4"]
