"""What is refused, in one sentence that says what to do instead, and no network is asked for it."""

from dataclasses import replace

import numpy as np
import pytest

from cogvideox.errors import UserError
from cogvideox.generation.request.builder import complete, prepare
from cogvideox.generation.request.inputs import Inputs
from cogvideox.generation.request.provenance import Source
from cogvideox.generation.request.validation import remarks
from cogvideox.pretrained.model_spec import read_spec
from tests import tiny

PICTURE = np.zeros((8, 8, 3), np.uint8)
CLIP = np.zeros((17, 8, 8, 3), np.uint8)


@pytest.fixture(scope="module")
def models(folders):
    return {variant: read_spec(path) for variant, path in folders.items()}


CASES = [
    ("2b", {"image": PICTURE}, "takes no image, because it makes videos from text"),
    ("5b-i2v", {}, "makes videos from an image, and there is none"),
    ("2b", {"strength": 0.5}, "strength is for a video, and there is none"),
    ("2b", {"extend": True}, "extend is for a video"),
    ("2b", {"invert": True}, "invert is for a video"),
    ("2b", {"fit": "contain"}, "fit=contain is for an image or a video"),
    ("2b", {"fit": "cover"}, "fit=cover is for an image or a video"),
    ("2b", {"strength": 0.8}, "strength is for a video, and there is none"),
    ("2b", {"video": CLIP, "strength": 1.5}, "strength=1.5 must be from 0 to 1; the nearest is 1"),
    ("2b", {"video": CLIP, "strength": -1.0}, "the nearest is 0.5"),
    ("2b", {"video": CLIP, "strength": float("nan")}, "strength=nan must be a finite number"),
    ("2b", {"video": CLIP, "strength": 0.1, "num_inference_steps": 5}, "none of 5 steps; the nearest is 0.2"),
    ("2b", {"video": CLIP, "strength": 0.0}, "none of 2 steps; the nearest is 0.5"),
    ("2b", {"video": CLIP, "num_frames": 21}, "has 17 frames at 8 a second, too few for num_frames=21"),
    ("2b", {"video": CLIP[:7], "num_frames": 9}, "the nearest is 5"),
    ("2b", {"video": CLIP, "extend": True, "num_frames": 17}, "has 17 frames at 8 a second; the nearest is 21"),
    ("2b", {"video": CLIP[:1], "extend": True, "num_frames": 1}, "has 1 frame at 8 a second; the nearest is 5"),
    ("2b", {"video": CLIP[:1], "num_frames": 5}, "has 1 frame at 8 a second, too few for num_frames=5"),
    ("2b", {"video": CLIP, "extend": True, "invert": True}, "two things to do"),
    ("2b", {"video": CLIP, "extend": True, "strength": 0.5}, "strength is for a video that is made anew"),
    ("5b-i2v", {"video": CLIP, "extend": True, "image": PICTURE}, "no place for image"),
    ("5b-i2v", {"video": CLIP, "invert": True}, "invert is for models that make videos from text"),
    ("5b-i2v", {"video": CLIP, "window": 9}, "window is not possible here"),
    ("5b-i2v", {"image": PICTURE, "window": 9, "num_frames": 17, "overlap": 4}, "overlap is always one frame"),
    ("5b-i2v", {"image": PICTURE, "window": 33, "num_frames": 97}, "window=33 is not possible, .* nearest is 17"),
    ("5b-i2v", {"image": PICTURE, "num_frames": 97}, "nearest is 17, and window=17 makes a longer video"),
    ("5b", {"video": CLIP, "invert": True, "window": 9}, "window is not possible here"),
    ("5b", {"window": 10}, "window=10 is not allowed: .* 9 or 13"),
    ("5b", {"window": 1}, "window=1 is too short .* the nearest is 5"),
    ("1.5-5b", {"window": 5}, "the nearest is 9"),
    ("5b", {"window": 9, "overlap": 6}, "overlap=6 must be a multiple of 4, .* the nearest is 8"),
    ("5b", {"window": 9, "overlap": 12}, "the nearest is 8"),
    ("5b", {"window": 9, "overlap": 0}, "the nearest is 4"),
    ("5b", {"overlap": 4}, "give window too"),
    ("5b", {"eta": 2.0}, "eta=2.0 must be from 0 to 1"),
    ("5b", {"guidance_interval": (0.5, 0.2)}, "two fractions of the steps"),
    ("5b", {"guidance_interval": (0.0, 1.5)}, "two fractions of the steps"),
    ("5b", {"guidance_interval": (0.0, float("nan"))}, "guidance_interval=nan must be a finite number"),
    ("5b", {"guidance_interval": (0.5,)}, "two numbers"),
    ("5b", {"guidance_scale": float("inf")}, "guidance_scale=inf must be a finite number"),
    ("5b", {"fps": float("nan")}, "fps=nan must be a finite number"),
    ("5b", {"fps": 10**400}, "must be a number"),
    ("5b", {"guidance_interval": (0.2, 0.8), "guidance_scale": 1.0}, "no effect"),
    ("5b", {"sequential_guidance": True, "guidance_scale": 1.0}, "sequential_guidance has no effect"),
    ("5b", {"smooth_guidance": True, "guidance_scale": 1.0}, "smooth_guidance has no effect"),
    ("5b", {"smooth_guidance": True, "dynamic_guidance": True}, "leave one out"),
    ("5b", {"position_rule": "stretch"}, "there are resize_crop and slice"),
    ("2b", {"position_rule": "slice"}, "position_rule is for rotary positions"),
    ("5b", {"fit": "squash"}, "there are cover, contain and stretch"),
    ("5b", {"image_latent_scale": "diffusers"}, "image_latent_scale is for models that take an image"),
    ("5b", {"video": CLIP, "image_latent_scale": "sat"}, "image_latent_scale is for models that take an image"),
    ("5b-i2v", {"image": PICTURE, "image_latent_scale": "hf"}, "there are sat and diffusers"),
    ("5b-i2v", {"image": PICTURE[..., :2]}, r"image must be the path of a file or an array \[h w 3\]"),
    ("5b-i2v", {"image": PICTURE + 0.5 * 5}, "image must be uint8, or floating point in 0 to 1"),
    ("5b-i2v", {"image": CLIP}, r"got one of shape \(17, 8, 8, 3\)"),
    ("5b", {"video": CLIP[:0]}, r"got one of shape \(0, 8, 8, 3\)"),
    ("5b", {"video": Source(None, "abc")}, "given in memory"),
    ("5b", {"video": "gone.mp4"}, "cannot read gone.mp4: there is no such file"),
    ("5b-i2v", {"image": __file__}, "it is damaged or no image"),
    ("5b", {"video": __file__}, "it is damaged or no video"),
    ("5b-i2v", {"image": "."}, "cannot read ."),
]


@pytest.mark.parametrize(("variant", "values", "message"), CASES, ids=[message for *_, message in CASES])
def test_refusals(models, variant, values, message):
    with pytest.raises(UserError, match=message) as caught:
        prepare(models[variant], "a ball", **values)
    assert "\n" not in str(caught.value)


def test_no_guidance_and_a_rise_both_end_the_habit_of_changing_it(models):
    spec = models["5b"]
    assert complete(spec, "a ball", smooth_guidance=True).dynamic_guidance is False


def test_what_was_not_trained_with_says_how_to_make_it_longer(models):
    (one,) = remarks(complete(models["2b"], "a ball", num_frames=97), models["2b"])
    assert one.endswith("the nearest is 17, and window=17 makes a long video of pieces)")
    assert not list(remarks(complete(models["2b"], "a ball", num_frames=97, window=17), models["2b"]))
    (window,) = remarks(complete(models["2b"], "a ball", num_frames=97, window=33), models["2b"])
    assert window.startswith("window=33 is unlike")
    trained = replace(models["2b"].settings.trained, num_frames=(9, 9))
    one_length = replace(models["2b"], settings=replace(models["2b"].settings, trained=trained))
    (one,) = remarks(complete(one_length, "a ball", num_frames=17), one_length)
    assert one.endswith("suffer (9, and window=9 makes a long video of pieces)")


def test_windows_are_completed(models):
    for values, window, overlap in (
        ({"num_frames": 41, "window": 17}, 17, 12),
        ({"num_frames": 41, "window": 17, "overlap": 4}, 17, 4),
        ({"num_frames": 17, "window": 17}, None, None),
    ):
        request = complete(models["2b"], "a ball", **values)
        assert (request.window, request.overlap) == (window, overlap)
    extended = complete(models["2b"], "a ball", inputs=Inputs(video=CLIP, video_source=Source(None, "")), extend=True)
    assert (extended.num_frames, extended.window, extended.overlap) == (21, 9, 8)
    assert tiny.SIZE["num_frames"] == 9
