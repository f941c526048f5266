"""Requests: defaults filled in, illegal values refused with the nearest legal one, unusual ones remarked upon."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from cogvideox import config
from cogvideox.errors import UserError
from cogvideox.generation.request import builder as module
from cogvideox.generation.request.builder import complete, split
from cogvideox.generation.request.request import Replay
from cogvideox.generation.request.validation import MAX_SEED, remarks
from cogvideox.pretrained.model_spec import read_spec
from tests import tiny


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    return read_spec(tiny.write(tmp_path_factory.mktemp("models") / "tiny"))


def test_none_is_the_models_default(spec):
    request = complete(spec, "a ball")
    settings = spec.settings
    for name in ("num_frames", "height", "width", "num_inference_steps", "guidance_scale", "sampler", "fps"):
        assert getattr(request, name) == getattr(settings, name)
    assert request.negative_prompt == "" and request.dynamic_guidance is False


def test_given_values_win(spec):
    given = {
        "num_frames": 5,
        "height": 64,
        "width": 32,
        "num_inference_steps": 7,
        "guidance_scale": 2.5,
        "dynamic_guidance": True,
        "sampler": "dpm++",
        "seed": 3,
        "fps": 12.0,
        "negative_prompt": "blur",
    }
    request = complete(spec, "a ball", **given)
    assert {name: getattr(request, name) for name in given} == given and request.prompt == "a ball"


@pytest.mark.parametrize(
    ("kind", "value", "plain"),
    [
        ("_integer", np.int64(4), "4"),
        ("_integer", torch.tensor(4), "4"),
        ("_integer", 4.0, "seed=4.0 must be an integer"),
        ("_integer", "nine", "seed='nine' must be an integer"),
        ("_number", np.float32(2), "2.0"),
        ("_number", 2, "2.0"),
        ("_number", "high", "seed='high' must be a number"),
        ("_text", "a ball", '"a ball"'),
        ("_text", ["a ball"], "seed must be one text, got a list"),
        ("_text", None, "seed must be one text, got a NoneType"),
    ],
)
def test_values_become_what_json_holds_or_are_named(kind, value, plain):
    """By the functions themselves: in these tests the signatures of public ones let no other kind in."""
    try:
        assert json.dumps(getattr(module, kind)("seed", value)) == plain
    except UserError as error:
        assert str(error) == plain  # noqa: PT017 - half of the cases raise


def test_a_misspelt_name_is_not_ignored(spec):
    with pytest.raises(TypeError, match=r"a request has no num_frame$"):
        complete(spec, "a ball", num_frame=5)


def test_a_seed_is_drawn_and_differs(spec):
    assert len({complete(spec, "a ball").seed for _ in range(4)}) > 1


def test_without_a_prompt_the_models_example_is_used(spec):
    assert complete(spec, None).prompt == spec.settings.examples[0]
    without = replace(spec, settings=replace(spec.settings, examples=()))
    with pytest.raises(UserError, match="no prompt"):
        complete(without, None)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"prompt": "  "}, "prompt is empty"),
        ({"num_frames": 10}, "9"),
        ({"num_frames": 0}, "1"),
        ({"num_frames": -3}, "1"),
        ({"height": 40}, "32|48"),
        ({"width": 0}, "16"),
        ({"num_inference_steps": 0}, "nearest is 1"),
        ({"num_inference_steps": 1001}, "nearest is 1000"),
        ({"guidance_scale": 0.5}, "nearest is 1"),
        ({"guidance_scale": float("nan")}, "guidance_scale"),
        ({"guidance_scale": float("inf")}, "guidance_scale"),
        ({"sampler": "euler"}, "ddim and dpm"),
        ({"cache": -0.1}, "nearest is 0"),
        ({"cache": 2.0}, "nearest is 1"),
        ({"seed": -1}, "nearest is 0"),
        ({"seed": 2**64}, "seed"),
        ({"fps": 0.0}, "nearest is 1"),
        ({"guidance_scale": 1.0, "negative_prompt": "blur"}, "negative_prompt has no effect"),
        ({"guidance_scale": 1.0, "dynamic_guidance": True}, "dynamic_guidance has no effect"),
    ],
)
def test_illegal_values(spec, values, message):
    with pytest.raises(UserError, match=message):
        complete(spec, **{"prompt": "a ball", **values})


def test_no_guidance_quietly_ends_the_habit_of_changing_it(spec):
    habitual = replace(spec, settings=replace(spec.settings, dynamic_guidance=True))
    assert complete(habitual, "a ball").dynamic_guidance is True
    assert complete(habitual, "a ball", guidance_scale=1.0).dynamic_guidance is False


def test_remarks_on_what_was_not_trained(spec):
    trained = replace(spec.settings.trained, frame_step=8, num_frames=(1, 49), height=(32, 32), width=(48, 48))
    spec = replace(spec, settings=replace(spec.settings, trained=trained))

    def said(**values):
        return list(remarks(complete(spec, "a ball", **values), spec))

    assert said() == []
    (frames,) = said(num_frames=13)
    assert "8N+1" in frames and "nearest is 17" in frames
    (many,) = said(num_frames=97)
    assert "nearest is 49" in many
    (height,) = said(height=64)
    assert "height=64" in height


def test_several_videos_have_seeds_that_follow_each_other(spec):
    request = complete(spec, "a ball", seed=5)
    assert [part.seed for part in split(request, 3)] == [5, 6, 7]
    assert split(request, 3)[0] == request
    with pytest.raises(UserError, match=f"the nearest is {MAX_SEED - 1}"):
        split(replace(request, seed=MAX_SEED), 2)  # the second could be made, but not again


def test_a_replay_survives_json(spec, tmp_path):
    request = complete(spec, 'a "ball", ü', seed=1)
    replay = Replay(**asdict(request), model="toybox", device="cpu", dtype="float32", cogvideox="0.1.0", torch="2")
    config.save(replay, tmp_path / "x.json")
    assert config.load(Replay, tmp_path / "x.json") == replay
