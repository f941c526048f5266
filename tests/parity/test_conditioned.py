"""Image-to-video and video-to-video equal diffusers' pipelines with the same weights, pixels and seed.

Cases are those in which both implement the same: odd numbers of latent frames, step counts that divide 1000, no
resizing.
"""

import numpy as np
import pytest

from cogvideox import CogVideoX
from tests import tiny

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from tests.parity.pipelines import psnr, reference_frames, save_reference

pytestmark = pytest.mark.filterwarnings("ignore:.*was trained on")

LANDSCAPE = {"num_frames": 17, "height": 32, "width": 48}
PORTRAIT = {"num_frames": 9, "height": 48, "width": 32}
COMMON = {"prompt": tiny.CAPTIONS[0], "num_inference_steps": 5, "guidance_scale": 6.0}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Learned positions are for one size, so there are two models with them."""
    root = tmp_path_factory.mktemp("reference")
    portrait = {"sample_height": 6, "sample_width": 4, "sample_frames": 9}
    models = [("2b", {}), ("5b", {}), ("5b-i2v", {}), ("1.5-5b-i2v", {})]
    saved = {variant: save_reference(variant, root / variant, **sizes) for variant, sizes in models}
    return {**saved, "5b-i2v portrait": save_reference("5b-i2v", root / "portrait", **portrait)}


def pixels(num_frames: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("sampler", ["ddim", "dpm++"])
@pytest.mark.parametrize(
    ("model", "size"),
    [
        ("5b-i2v", LANDSCAPE),
        ("5b-i2v portrait", PORTRAIT),
        ("1.5-5b-i2v", LANDSCAPE),  # 5 latent frames, padded to 6
        ("1.5-5b-i2v", PORTRAIT),
    ],
    ids=["5b-i2v", "5b-i2v portrait", "1.5-5b-i2v", "1.5-5b-i2v portrait"],
)
def test_image_to_video_equals_diffusers(folders, model, size, sampler):
    pipe = CogVideoX.from_pretrained(folders[model])
    values = {**COMMON, **size, "image": pixels(**size)[0], "sampler": sampler, "seed": 7}
    values["dynamic_guidance"] = sampler == "dpm++"
    pipeline_class = "CogVideoXImageToVideoPipeline"
    expected = reference_frames(pipeline_class, folders[model], text_length=pipe.settings.text_length, **values)
    actual = pipe.generate(**values, image_latent_scale="diffusers", output="float").frames
    assert expected.std() > 0.02
    assert psnr(actual, expected) >= 90
    if model.startswith("1.5"):
        assert psnr(pipe.generate(**values, output="float").frames, expected) < 60  # the official scale differs


@pytest.mark.parametrize("sampler", ["ddim", "dpm++"])
@pytest.mark.parametrize("size", [LANDSCAPE, PORTRAIT], ids=["landscape", "portrait"])
@pytest.mark.parametrize("variant", ["2b", "5b"])
def test_video_to_video_equals_diffusers(folders, variant, size, sampler):
    pipe = CogVideoX.from_pretrained(folders[variant])
    values = {**COMMON, **size, "video": pixels(**size), "strength": 0.6, "sampler": sampler, "seed": 7}
    values["dynamic_guidance"] = sampler == "dpm++"
    pipeline_class = "CogVideoXVideoToVideoPipeline"
    expected = reference_frames(pipeline_class, folders[variant], text_length=pipe.settings.text_length, **values)
    assert expected.std() > 0.02
    assert psnr(pipe.generate(**values, output="float").frames, expected) >= 90
