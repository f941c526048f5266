"""The transformer's configuration: official presets, diffusers' JSON, and errors."""

import json
from dataclasses import replace

import pytest

from cogvideox.errors import UserError
from cogvideox.transformer.config import TransformerConfig
from cogvideox.transformer.presets import PRESETS


@pytest.mark.parametrize("name", PRESETS)
def test_presets_round_trip_through_json(name):
    config = PRESETS[name]()
    assert TransformerConfig.from_diffusers(json.loads(json.dumps(config.to_diffusers()))) == config


def test_properties_of_the_official_models():
    assert {name: preset().width for name, preset in PRESETS.items()} == {
        "2b": 1920,
        "5b": 3072,
        "5b-i2v": 3072,
        "1.5-5b": 3072,
        "1.5-5b-i2v": 3072,
    }
    assert PRESETS["2b"]().base_grid == (13, 30, 45)
    assert PRESETS["1.5-5b"]().base_grid == (11, 150, 150)  # 81 frames, 21 latents, padded to 22
    assert PRESETS["1.5-5b"]().patch == (2, 2, 2)
    assert PRESETS["5b-i2v"]().in_channels == 32
    assert {name: preset().position_rule for name, preset in PRESETS.items()} == {
        "2b": None,
        "5b": "resize_crop",
        "5b-i2v": "resize_crop",
        "1.5-5b": "slice",
        "1.5-5b-i2v": "slice",
    }


def test_keys_with_underscores_are_ignored():
    data = {"_class_name": "CogVideoXTransformer3DModel", "_diffusers_version": "0.42.1", "num_layers": 3}
    assert TransformerConfig.from_diffusers(data) == TransformerConfig(num_layers=3)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"num_layer": 3}, "num_layers"),
        ({"num_layers": "3"}, "num_layers must be an integer"),
        ({"num_layers": 0}, "positive"),
        ({"activation_fn": "geglu"}, "only 'gelu-approximate' is supported"),
        ({"dropout": 0.1}, "dropout"),
        ({"attention_head_dim": 40, "use_rotary_positional_embeddings": True}, "nearest is 32"),
        ({"attention_head_dim": 10, "num_attention_heads": 1}, "multiple of 16"),
        ({"ofs_embed_dim": 256}, "ofs_embed_dim=256"),
        ({"sample_height": 61}, "nearest is 60"),
    ],
)
def test_invalid_configs_are_rejected(data, message):
    with pytest.raises(UserError, match=r"transformer/config\.json") as error:
        TransformerConfig.from_diffusers(data)
    assert message in str(error.value)


def test_invalid_configs_are_rejected_in_python():
    with pytest.raises(UserError, match="positive"):
        replace(PRESETS["2b"](), patch_size=0)
