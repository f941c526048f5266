"""Text-to-video equals `diffusers.CogVideoXPipeline` with the same weights and seed.

Cases are those in which both implement the same: odd numbers of latent frames (diffusers does not decode even numbers
to 4k+1 frames) and step counts that divide 1000.
"""

import json
from pathlib import Path

import pytest
import torch

from cogvideox import CogVideoX
from cogvideox.pretrained import model_folder, model_spec
from tests import tiny

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from tests.parity.pipelines import psnr, reference_frames, save_reference

pytestmark = pytest.mark.filterwarnings("ignore:.*was trained on")

PROMPT = tiny.CAPTIONS[0]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("reference")
    return {variant: save_reference(variant, root / variant) for variant in tiny.TRANSFORMERS}


def psnr_to_diffusers(path: Path, **values) -> float:
    """Return the PSNR of our video against that of diffusers, which must not be a single color."""
    pipe = CogVideoX.from_pretrained(path)
    expected = reference_frames("CogVideoXPipeline", path, text_length=pipe.settings.text_length, **values)
    assert expected.std() > 0.02
    return psnr(pipe.generate(**values, output="float").frames, expected)


@pytest.mark.parametrize("dynamic_guidance", [False, True], ids=["constant", "dynamic"])
@pytest.mark.parametrize("sampler", ["ddim", "dpm++"])
@pytest.mark.parametrize("variant", tiny.TRANSFORMERS)
def test_video_equals_diffusers(folders, variant, sampler, dynamic_guidance):
    values = {"prompt": PROMPT, "sampler": sampler, "dynamic_guidance": dynamic_guidance, "seed": 7}
    # The 1.5 models have patches of two latent frames, so 3 latent frames are padded to 4.
    assert psnr_to_diffusers(folders[variant], **values, **tiny.SIZE, num_inference_steps=5, guidance_scale=6.0) >= 90


@pytest.mark.parametrize("variant", tiny.TRANSFORMERS)
@pytest.mark.parametrize(
    "size",
    [
        {"num_frames": 17, "height": 32, "width": 48},
        {"num_frames": 9, "height": 48, "width": 32},
        {"num_frames": 1, "height": 32, "width": 32},
    ],
    ids=["longer", "portrait", "image"],
)
def test_video_equals_diffusers_at_other_sizes(folders, variant, size):
    values = {"prompt": PROMPT, "sampler": "dpm++", "dynamic_guidance": True, "seed": 3}
    assert psnr_to_diffusers(folders[variant], **values, **size, num_inference_steps=4, guidance_scale=4.0) >= 90


def test_negative_prompt_and_no_guidance_equal_diffusers(folders):
    values = {**tiny.SIZE, "prompt": PROMPT, "sampler": "ddim", "seed": 0, "num_inference_steps": 4}
    negative = {"negative_prompt": tiny.CAPTIONS[1], "guidance_scale": 3.0, "dynamic_guidance": False}
    assert psnr_to_diffusers(folders["5b"], **values, **negative) >= 90
    assert psnr_to_diffusers(folders["5b"], **values, guidance_scale=1.0, dynamic_guidance=False) >= 90


@pytest.mark.parametrize(
    "options",
    [{}, {"dtype": torch.float16}, {"dtype": torch.bfloat16}, {"max_shard_bytes": 20_000}],
    ids=["float32", "float16", "bfloat16", "shards"],
)
def test_saved_folder_loads_in_diffusers(tmp_path, options):
    path = model_folder.save(tiny.model("5b"), tmp_path / "model", **options)
    values = {**tiny.SIZE, "prompt": PROMPT, "sampler": "ddim", "seed": 2, "num_inference_steps": 4}
    assert psnr_to_diffusers(path, **values, guidance_scale=6.0, dynamic_guidance=False) >= 90


def test_shipped_model_generates_the_same_video_in_diffusers():
    spec = model_spec.read_spec("toybox")
    settings = spec.settings
    values = {
        "prompt": settings.examples[0],
        "num_frames": settings.num_frames,
        "height": settings.height,
        "width": settings.width,
        "num_inference_steps": settings.num_inference_steps,
        "guidance_scale": settings.guidance_scale,
        "dynamic_guidance": settings.dynamic_guidance,
        "sampler": settings.sampler,
        "seed": 1,
    }
    assert psnr_to_diffusers(spec.path, **values) >= 50
    assert json.loads((spec.path / model_spec.INDEX_FILE).read_text())["_class_name"] == "CogVideoXPipeline"
