"""Requests: defaults, errors with the nearest valid value, warnings about untrained sizes."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from cogvideox import config
from cogvideox.errors import UserError
from cogvideox.generation.request.builder import complete_request, split_seeds
from cogvideox.generation.request.request import Request
from cogvideox.generation.request.sidecar import Sidecar, repeat_with_changes
from cogvideox.generation.request.validation import training_mismatches
from cogvideox.options import check_value, list_options
from cogvideox.pretrained.model_spec import read_spec
from tests import tiny


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    return read_spec(tiny.write(tmp_path_factory.mktemp("models") / "tiny"))


def test_defaults_come_from_the_model(spec):
    request = complete_request(spec, "a ball")
    settings = spec.settings
    for name in ("num_frames", "height", "width", "num_inference_steps", "guidance_scale", "sampler", "fps"):
        assert getattr(request, name) == getattr(settings, name)
    assert request.negative_prompt == "" and request.dynamic_guidance is False


def test_values_override_the_defaults(spec):
    values = {
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
    request = complete_request(spec, "a ball", **values)
    assert {name: getattr(request, name) for name in values} == values and request.prompt == "a ball"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("seed", np.int64(4), "4"),
        ("seed", torch.tensor(4), "4"),
        ("seed", 4.0, "seed=4.0 must be an integer"),
        ("seed", "nine", "seed='nine' must be an integer"),
        ("fps", np.float32(2), "2.0"),
        ("fps", 2, "2.0"),
        ("fps", "high", "fps='high' must be a number"),
        ("prompt", "a ball", '"a ball"'),
        ("prompt", ["a ball"], "prompt must be a string, got list"),
        ("prompt", None, "prompt must be a string, got NoneType"),
    ],
)
def test_values_are_converted_to_json_types_or_rejected(name, value, expected):
    try:
        assert json.dumps(check_value(list_options(Request)[name], value)) == expected
    except UserError as error:
        assert str(error) == expected  # noqa: PT017 - half of the cases raise


def test_an_unknown_option_is_an_error(spec):
    with pytest.raises(TypeError, match=r"unknown option 'num_frame'; did you mean 'num_frames'\?"):
        complete_request(spec, "a ball", num_frame=5)


def test_the_default_seed_is_random(spec):
    assert len({complete_request(spec, "a ball").seed for _ in range(4)}) > 1


def test_the_default_prompt_is_the_models_example(spec):
    assert complete_request(spec, None).prompt == spec.settings.examples[0]
    without = replace(spec, settings=replace(spec.settings, examples=()))
    with pytest.raises(UserError, match="missing prompt"):
        complete_request(without, None)


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
        ({"sampler": "euler"}, "must be one of ddim, dpm"),
        ({"cache": -0.1}, "nearest is 0"),
        ({"cache": 2.0}, "nearest is 1"),
        ({"seed": -1}, "nearest is 0"),
        ({"seed": 2**64}, "seed"),
        ({"fps": 0.0}, "nearest is 1"),
        ({"guidance_scale": 1.0, "negative_prompt": "blur"}, "negative_prompt has no effect"),
        ({"guidance_scale": 1.0, "dynamic_guidance": True}, "dynamic_guidance has no effect"),
        ({"guidance_scale": 1.0, "null_text": "zero"}, "null_text has no effect with guidance_scale=1"),
        ({"negative_prompt": "blur", "null_text": "zero"}, "null_text has no effect with negative_prompt"),
        ({"null_text": "none"}, "null_text"),
    ],
)
def test_invalid_values_are_rejected(spec, values, message):
    with pytest.raises(UserError, match=message):
        complete_request(spec, **{"prompt": "a ball", **values})


def test_without_guidance_the_models_dynamic_guidance_is_off(spec):
    dynamic = replace(spec, settings=replace(spec.settings, dynamic_guidance=True))
    assert complete_request(dynamic, "a ball").dynamic_guidance is True
    assert complete_request(dynamic, "a ball", guidance_scale=1.0).dynamic_guidance is False


def test_warnings_about_sizes_outside_of_training(spec):
    trained = replace(spec.settings.trained, frame_step=8, num_frames=(1, 49), height=(32, 32), width=(48, 48))
    spec = replace(spec, settings=replace(spec.settings, trained=trained))

    def warnings(**values):
        return list(training_mismatches(complete_request(spec, "a ball", **values), spec))

    assert warnings() == []
    (frames,) = warnings(num_frames=13)
    assert "8N+1" in frames and "nearest is 17" in frames
    (long_video,) = warnings(num_frames=97)
    assert "nearest is 49" in long_video
    (height,) = warnings(height=64)
    assert "height=64" in height


def test_several_videos_have_consecutive_seeds(spec):
    request = complete_request(spec, "a ball", seed=5)
    assert [part.seed for part in split_seeds(request, 3)] == [5, 6, 7]
    assert split_seeds(request, 3)[0] == request
    with pytest.raises(UserError, match=f"the nearest is {2**63 - 1 - 1}"):
        split_seeds(replace(request, seed=2**63 - 1), 2)  # the second seed would be too large


def test_sidecar_round_trip_through_json(spec, tmp_path):
    request = complete_request(spec, 'a "ball", ü', seed=1)
    sidecar = Sidecar(**asdict(request), model="toybox", device="cpu", dtype="float32", cogvideox="0.1.0", torch="2")
    config.save(sidecar, tmp_path / "x.json")
    assert config.load(Sidecar, tmp_path / "x.json") == sidecar


def test_the_null_text_of_a_repeated_video_is_the_recorded_one(spec):
    """A negative prompt or disabled guidance replaces it; sidecars of version 0.1.0 have none."""
    recorded = complete_request(spec, "a ball", seed=0, null_text="zero")
    sidecar = Sidecar(**vars(recorded), model="toybox", device="cpu", dtype="float32", cogvideox="", torch="")
    assert sidecar.metadata()["null_text"] == "zero"

    def repeated(sidecar=sidecar, **changes):
        return complete_request(spec, **repeat_with_changes(sidecar, changes, {})[0])

    assert repeated() == recorded and repeated(seed=1).null_text == "zero"
    assert repeated(negative_prompt="blur").null_text is None
    assert repeated(guidance_scale=1.0).null_text is None
    assert repeated(replace(sidecar, null_text=None)).null_text == spec.settings.null_text
    negative = repeated(replace(sidecar, null_text=None, negative_prompt="blur"), null_text="zero")
    assert (negative.null_text, negative.negative_prompt) == ("zero", "")
