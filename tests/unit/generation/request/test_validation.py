"""Unsupported requests are rejected with a one-sentence error before weights are loaded."""

from dataclasses import replace

import numpy as np
import pytest

from cogvideox.errors import UserError
from cogvideox.generation.request.builder import build_request, complete_request
from cogvideox.generation.request.input_sources import InputSource
from cogvideox.generation.request.inputs import Inputs
from cogvideox.generation.request.validation import silent_changes, training_mismatches
from cogvideox.pretrained.model_spec import read_spec
from tests import tiny

IMAGE = np.zeros((8, 8, 3), np.uint8)
CLIP = np.zeros((17, 8, 8, 3), np.uint8)


@pytest.fixture(scope="module")
def models(folders):
    return {variant: read_spec(path) for variant, path in folders.items()}


CASES = [
    ("2b", {"image": IMAGE}, "is a text-to-video model without image input"),
    ("5b-i2v", {}, "is an image-to-video model and needs an image"),
    ("2b", {"strength": 0.5}, "`strength` needs an input video"),
    ("2b", {"extend": True}, "`extend` needs an input video"),
    ("2b", {"invert": True}, "`invert` needs an input video"),
    ("2b", {"fit": "contain"}, "fit=contain needs an input image or video"),
    ("2b", {"fit": "cover"}, "fit=cover needs an input image or video"),
    ("2b", {"strength": 0.8}, "`strength` needs an input video"),
    ("2b", {"video": CLIP, "strength": 1.5}, "strength=1.5 must be 1 or less; the nearest is 1"),
    ("2b", {"video": CLIP, "strength": -1.0}, "the nearest is 0.5"),
    ("2b", {"video": CLIP, "strength": float("nan")}, "strength=nan must be a finite number"),
    (
        "2b",
        {"video": CLIP, "strength": 0.1, "num_inference_steps": 5},
        "of 5 steps is less than one step; the nearest is 0.2",
    ),
    ("2b", {"video": CLIP, "strength": 0.0}, "of 2 steps is less than one step; the nearest is 0.5"),
    ("2b", {"video": CLIP, "num_frames": 21}, "has 17 frames at 8 fps, too few for num_frames=21"),
    ("2b", {"video": CLIP[:7], "num_frames": 9}, "the nearest is 5"),
    ("2b", {"video": CLIP, "extend": True, "num_frames": 17}, "has 17 frames at 8 fps; the nearest is 21"),
    ("2b", {"video": CLIP[:1], "extend": True, "num_frames": 1}, "has 1 frame at 8 fps; the nearest is 5"),
    ("2b", {"extend_by": 8}, "`extend_by` needs an input video"),
    ("2b", {"video": CLIP, "extend_by": 10}, "has 17 frames at 8 fps, and 27 in total .* the nearest: 8 or 12"),
    ("2b", {"video": CLIP[:7], "extend_by": 1}, "has 7 frames at 8 fps, and 8 in total .* the nearest: 2"),
    ("2b", {"video": CLIP, "extend_by": 8, "num_frames": 25}, "`extend_by` and num_frames cannot be combined"),
    ("2b", {"video": CLIP, "extend_by": 8, "extend": False}, "`extend_by` and extend=False cannot be combined"),
    ("2b", {"video": CLIP, "extend_by": 8, "invert": True}, "`extend` and `invert` cannot be combined"),
    ("2b", {"video": CLIP, "extend_by": 0}, "the nearest is 1"),
    ("2b", {"video": CLIP[:1], "num_frames": 5}, "has 1 frame at 8 fps, too few for num_frames=5"),
    ("2b", {"video": CLIP, "extend": True, "invert": True}, "`extend` and `invert` cannot be combined"),
    ("2b", {"video": CLIP, "extend": True, "strength": 0.5}, "`strength` cannot be combined with `extend` or `invert`"),
    ("5b-i2v", {"video": CLIP, "extend": True, "image": IMAGE}, "`image` and `extend` cannot be combined"),
    ("5b-i2v", {"video": CLIP, "invert": True}, "`invert` needs a text-to-video model"),
    ("5b-i2v", {"video": CLIP, "window": 9}, "`window` is not possible for this task"),
    ("5b-i2v", {"image": IMAGE, "window": 9, "num_frames": 17, "overlap": 4}, "`overlap` is always one frame"),
    ("5b-i2v", {"image": IMAGE, "window": 33, "num_frames": 97}, "window=33 is not possible, .* nearest is 17"),
    ("5b-i2v", {"image": IMAGE, "num_frames": 97}, "nearest is 17, and window=17 generates a longer video"),
    ("5b", {"video": CLIP, "invert": True, "window": 9}, "`window` is not possible for this task"),
    ("5b", {"window": 10}, "window=10 is not allowed: .* 9 or 13"),
    ("5b", {"window": 1}, "window=1 is too short .* the nearest is 5"),
    ("1.5-5b", {"window": 5}, "the nearest is 9"),
    ("5b", {"window": 9, "overlap": 6}, "overlap=6 must be a multiple of 4 .* the nearest is 8"),
    ("5b", {"window": 9, "overlap": 12}, "the nearest is 8"),
    ("5b", {"window": 9, "overlap": 0}, "the nearest is 4"),
    ("5b", {"overlap": 4}, "set `window` too"),
    ("5b", {"eta": 2.0}, "eta=2.0 must be from 0 to 1"),
    ("5b", {"guidance_interval": (0.5, 0.2)}, "two increasing fractions of the steps"),
    ("5b", {"guidance_interval": (0.0, 1.5)}, "two increasing fractions of the steps"),
    ("5b", {"guidance_interval": (0.0, float("nan"))}, "guidance_interval=nan must be a finite number"),
    ("5b", {"guidance_interval": (0.5,)}, "two numbers"),
    ("5b", {"guidance_scale": float("inf")}, "guidance_scale=inf must be a finite number"),
    ("5b", {"fps": float("nan")}, "fps=nan must be a finite number"),
    ("5b", {"fps": 10**400}, "must be a number"),
    ("5b", {"guidance_interval": (0.2, 0.8), "guidance_scale": 1.0}, "no effect"),
    ("5b", {"sequential_guidance": True, "guidance_scale": 1.0}, "sequential_guidance has no effect"),
    ("5b", {"smooth_guidance": True, "guidance_scale": 1.0}, "smooth_guidance has no effect"),
    ("5b", {"smooth_guidance": True, "dynamic_guidance": True}, "leave one out"),
    ("5b", {"position_rule": "stretch"}, "must be one of resize_crop, slice"),
    ("2b", {"position_rule": "slice"}, "position_rule applies to rotary positions"),
    ("5b", {"fit": "squash"}, "must be one of cover, contain, stretch"),
    ("5b", {"image_latent_scale": "diffusers"}, "image_latent_scale needs an image-to-video model"),
    ("5b", {"video": CLIP, "image_latent_scale": "sat"}, "image_latent_scale needs an image-to-video model"),
    ("5b-i2v", {"image": IMAGE, "image_latent_scale": "hf"}, "must be one of sat, diffusers"),
    ("5b-i2v", {"image": IMAGE[..., :2]}, r"image must be the path of a file or an array \[h w 3\]"),
    ("5b-i2v", {"image": IMAGE + 0.5 * 5}, "image must be uint8, or floating point between 0 and 1"),
    ("5b-i2v", {"image": CLIP}, r"got an array of shape \(17, 8, 8, 3\)"),
    ("5b", {"video": CLIP[:0]}, r"got an array of shape \(0, 8, 8, 3\)"),
    ("5b", {"video": InputSource(None, "abc")}, "passed in memory"),
    ("5b", {"video": "gone.mp4"}, "cannot read gone.mp4: file not found"),
    ("5b-i2v", {"image": __file__}, "it is damaged or not an image"),
    ("5b", {"video": __file__}, "it is damaged or not a video"),
    ("5b-i2v", {"image": "."}, "cannot read ."),
]


@pytest.mark.parametrize(("variant", "values", "message"), CASES, ids=[message for *_, message in CASES])
def test_unsupported_requests_are_rejected(models, variant, values, message):
    with pytest.raises(UserError, match=message) as caught:
        build_request(models[variant], "a ball", **values)
    assert "\n" not in str(caught.value)


def test_smooth_guidance_replaces_the_models_dynamic_guidance(models):
    spec = models["5b"]
    assert complete_request(spec, "a ball", smooth_guidance=True).dynamic_guidance is False


def test_warnings_about_long_videos_suggest_a_window(models):
    def warnings(spec, **values):
        return list(training_mismatches(complete_request(spec, "a ball", **values), spec))

    (warning,) = warnings(models["2b"], num_frames=97)
    assert "the nearest is 17, and window=17 generates a long video in windows)" in warning
    assert not warnings(models["2b"], num_frames=97, window=17)
    (window,) = warnings(models["2b"], num_frames=97, window=33)
    assert window.startswith("window=33 is outside the range that this model was trained on")
    trained = replace(models["2b"].settings.trained, num_frames=(9, 9))
    one_length = replace(models["2b"], settings=replace(models["2b"].settings, trained=trained))
    (warning,) = warnings(one_length, num_frames=17)
    assert "trained on (9, and window=9 generates a long video in windows)" in warning


def test_default_windows_and_overlaps(models):
    for values, window, overlap in (
        ({"num_frames": 41, "window": 17}, 17, 12),
        ({"num_frames": 41, "window": 17, "overlap": 4}, 17, 4),
        ({"num_frames": 17, "window": 17}, None, None),
    ):
        request = complete_request(models["2b"], "a ball", **values)
        assert (request.window, request.overlap) == (window, overlap)
    extended = complete_request(
        models["2b"], "a ball", inputs=Inputs(video=CLIP, video_source=InputSource(None, "")), extend=True
    )
    assert (extended.num_frames, extended.window, extended.overlap) == (21, 9, 8)
    inputs = Inputs(video=CLIP, video_source=InputSource(None, ""))
    by_number, in_total = (
        complete_request(models["2b"], "a ball", inputs=inputs, seed=0, **values)
        for values in ({"extend_by": 12}, {"extend": True, "num_frames": 29})
    )
    assert by_number == in_total
    assert tiny.SIZE["num_frames"] == 9


def test_changes_of_the_input_are_noted(models, tmp_path):
    from cogvideox.generation.request.inputs import read_inputs
    from cogvideox.video import io

    io.write(tmp_path / "x.mp4", np.zeros((33, 64, 96, 3), np.uint8), 8.0)
    inputs = read_inputs(None, tmp_path / "x.mp4", fps=8.0, max_frames=9)
    request = complete_request(models["2b"], "a ball", inputs=inputs, num_frames=9)
    size, length = silent_changes(request, inputs, models["2b"])
    assert size == "the video is 96x64 and becomes 48x32; `height` and `width` set the size"
    assert "has 33 frames at 8 fps, and only the first 9 are used" in length
    fitting = read_inputs(None, np.zeros((9, 32, 48, 3), np.uint8), fps=8.0)
    assert not list(silent_changes(complete_request(models["2b"], "a ball", inputs=fitting), fitting, models["2b"]))
