"""The VAE's configuration: official presets, diffusers' JSON, and errors."""

import json
import math

import pytest

from cogvideox.diffusion.config import PRESETS as SCHEDULES
from cogvideox.errors import UserError
from cogvideox.transformer.presets import PRESETS as TRANSFORMERS
from cogvideox.vae.config import PRESETS, VAEConfig


@pytest.mark.parametrize("name", PRESETS)
def test_presets_round_trip_through_json(name):
    config = PRESETS[name]()
    assert VAEConfig.from_diffusers(json.loads(json.dumps(config.to_diffusers()))) == config


def test_vae_transformer_and_schedule_presets_match():
    assert PRESETS.keys() == TRANSFORMERS.keys() == SCHEDULES.keys()
    assert {name: preset().scaling_factor for name, preset in PRESETS.items()} == {
        "2b": 1.15258426,
        "5b": 0.7,
        "5b-i2v": 0.7,
        "1.5-5b": 0.7,
        "1.5-5b-i2v": 0.7,
    }
    for name, preset in PRESETS.items():
        assert preset().latent_channels == TRANSFORMERS[name]().out_channels
        assert preset().temporal_compression_ratio == TRANSFORMERS[name]().temporal_compression_ratio


def test_integral_floats_are_read_as_integers():
    assert VAEConfig.from_diffusers({"temporal_compression_ratio": 4.0}) == VAEConfig()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"colour": 1}, "unknown setting colour"),
        ({"latent_channel": 16}, "did you mean latent_channels"),
        ({"latent_channels": "16"}, "latent_channels must be an integer"),
        ({"block_out_channels": 128}, "block_out_channels must be a list"),
        ({"latent_channels": 0}, "latent_channels=0 of the VAE must be 1 or more"),
        ({"norm_num_groups": 0}, "norm_num_groups=0"),
        ({"block_out_channels": [128, 256, 0]}, "block_out_channels[2]=0"),
        ({"block_out_channels": [128, 256, 100]}, "norm_num_groups=32; the nearest is 96"),
        ({"block_out_channels": [128, 256]}, "must have 3 levels or more"),
        ({"block_out_channels": []}, "must have 3 levels or more"),
        ({"temporal_compression_ratio": 16}, "must be 4"),
        ({"temporal_compression_ratio": 4.5}, "temporal_compression_ratio must be an integer"),
        ({"scaling_factor": 0.0}, "scaling_factor=0.0"),
        ({"scaling_factor": math.nan}, "scaling_factor=nan"),
        ({"use_quant_conv": True}, "use_quant_conv is True, but only False is supported"),
        ({"down_block_types": ["DownEncoderBlock3D"] * 4}, "only ['CogVideoXDownBlock3D', "),
    ],
)
def test_invalid_configs_are_rejected(data, message):
    with pytest.raises(UserError, match=r"^vae/config\.json: ") as error:
        VAEConfig.from_diffusers(data)
    assert message in str(error.value)
