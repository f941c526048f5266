"""An image-to-video model, trained by one command from a folder of videos, generates the same videos in diffusers."""

from pathlib import Path

import numpy as np
import pytest

from cogvideox import CogVideoX
from cogvideox.cli.toybox import run as toybox
from cogvideox.cli.train import train

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from tests.parity.pipelines import psnr, reference_frames


def test_trained_image_model_equals_diffusers(tmp_path: Path) -> None:
    size = {"num_frames": 9, "height": 64, "width": 64}
    options = ["--num-frames", "9", "--height", "64", "--width", "64", "--fps", "8"]
    toybox(["-o", str(tmp_path / "clips"), "--num-scenes", "4", *options])
    settings = {"run.num_steps": "3", "run.batch_size": "1", "optim.warmup_steps": "0"}
    assert train("toybox-i2v", settings, data=[str(tmp_path / "clips")], out=tmp_path / "run")
    model = tmp_path / "run/model"

    pipe = CogVideoX.from_pretrained(model)
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    values = {**size, "prompt": "a red ball moves right", "num_inference_steps": 4, "guidance_scale": 4.0}
    values |= {"seed": 7, "sampler": "ddim", "dynamic_guidance": False}
    actual = pipe.generate(**values, image=image, output="float").frames
    other_image = pipe.generate(**values, image=255 - image, output="float").frames
    pipeline_class = "CogVideoXImageToVideoPipeline"
    expected = reference_frames(pipeline_class, model, text_length=pipe.settings.text_length, **values, image=image)
    assert psnr(actual, expected) >= 60
    assert psnr(other_image, expected) < psnr(actual, expected) - 10
