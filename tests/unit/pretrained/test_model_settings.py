"""Default settings of model folders without `cogvideox.json`."""

import pytest

from cogvideox.pretrained.detect_variant import variant_of
from cogvideox.pretrained.model_settings import TrainedRange, official_settings
from cogvideox.transformer.presets import PRESETS
from cogvideox.vae.config import PRESETS as VAES
from tests import tiny


@pytest.mark.parametrize("name", PRESETS)
def test_variant_of_each_official_config(name):
    assert variant_of(PRESETS[name]()) == name


@pytest.mark.parametrize(
    ("name", "sampler", "fps", "size", "num_frames", "dtype", "position_rule"),
    [
        ("2b", "ddim", 8, (480, 720), 49, "float16", None),
        ("5b", "dpm++", 8, (480, 720), 49, "bfloat16", "resize_crop"),
        ("5b-i2v", "dpm++", 8, (480, 720), 49, "bfloat16", "resize_crop"),
        ("1.5-5b", "dpm++", 16, (768, 1360), 81, "bfloat16", "slice"),
        ("1.5-5b-i2v", "dpm++", 16, (768, 1360), 81, "bfloat16", "slice"),
    ],
)
def test_official_settings(name, sampler, fps, size, num_frames, dtype, position_rule):
    settings = official_settings(PRESETS[name](), VAES[name](), sampler)
    assert (settings.fps, settings.height, settings.width) == (fps, *size)
    assert (settings.num_frames, settings.num_inference_steps, settings.guidance_scale) == (num_frames, 50, 6.0)
    assert (settings.sampler, settings.dynamic_guidance) == (sampler, sampler == "dpm++")
    assert (settings.null_text, settings.text_length, settings.dtype) == ("empty", 226, dtype)
    assert settings.position_rule == position_rule


def test_official_trained_ranges():
    assert official_settings(PRESETS["5b"](), VAES["5b"](), "ddim").trained == TrainedRange(
        (1, 49), 8, (480, 480), (720, 720)
    )
    trained = official_settings(PRESETS["1.5-5b"](), VAES["1.5-5b"](), "ddim").trained
    assert trained == TrainedRange((1, 161), 16, (768, 1360), (768, 1360))


@pytest.mark.parametrize("variant", tiny.TRANSFORMERS)
def test_default_size_of_a_small_model_is_its_base_size(variant):
    config = tiny.TRANSFORMERS[variant]
    settings = official_settings(config, tiny.vae_config(variant), "ddim")
    assert settings.height == config.sample_height * 8 and settings.width == config.sample_width * 8
