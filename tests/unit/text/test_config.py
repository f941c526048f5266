"""The text encoder's configuration: valid sizes and transformers' JSON."""

from dataclasses import asdict, replace

import pytest

from cogvideox.errors import UserError
from cogvideox.text.config import T5Config

SMALL = T5Config(vocab_size=99, d_model=32, d_kv=8, d_ff=64, num_layers=3, num_heads=4)

# The official text_encoder/config.json.
OFFICIAL = {
    "architectures": ["T5EncoderModel"],
    "classifier_dropout": 0.0,
    "d_ff": 10240,
    "d_kv": 64,
    "d_model": 4096,
    "decoder_start_token_id": 0,
    "dense_act_fn": "gelu_new",
    "dropout_rate": 0.1,
    "eos_token_id": 1,
    "feed_forward_proj": "gated-gelu",
    "initializer_factor": 1.0,
    "is_encoder_decoder": True,
    "is_gated_act": True,
    "layer_norm_epsilon": 1e-06,
    "model_type": "t5",
    "num_decoder_layers": 24,
    "num_heads": 64,
    "num_layers": 24,
    "output_past": True,
    "pad_token_id": 0,
    "relative_attention_max_distance": 128,
    "relative_attention_num_buckets": 32,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 32128,
}


def test_defaults_are_the_official_encoder():
    assert T5Config.from_transformers(OFFICIAL) == T5Config()


def test_config_round_trip_through_json():
    assert T5Config.from_transformers(SMALL.to_transformers()) == SMALL


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "umt5"}, "'umt5'"),
        ({"feed_forward_proj": "relu"}, "feed_forward_proj is 'relu'"),
        ({"d_model": None, "num_heads": None}, "d_model, num_heads of the text encoder are missing"),
        ({"d_model": "4096"}, "d_model must be an integer"),
        ({"d_model": True}, "d_model must be an integer"),
        ({"relative_attention_num_buckets": 32.5}, "relative_attention_num_buckets must be an integer"),
        ({"num_layers": 0}, "num_layers=0"),
    ],
)
def test_other_architectures_are_rejected(change, message):
    data = {key: value for key, value in (OFFICIAL | change).items() if value is not None}
    with pytest.raises(UserError, match=rf"^text_encoder/config\.json: .*{message}"):
        T5Config.from_transformers(data)


@pytest.mark.parametrize("name", [name for name in asdict(SMALL) if name != "layer_norm_epsilon"])
def test_sizes_must_be_positive(name):
    with pytest.raises(UserError, match=f"{name}=0"):
        replace(SMALL, **{name: 0})


def test_buckets_must_be_a_multiple_of_4():
    with pytest.raises(UserError, match="nearest is 32"):
        replace(SMALL, relative_attention_num_buckets=31)


def test_maximum_distance_must_exceed_the_exact_buckets():
    with pytest.raises(UserError, match="must be 9 or more"):
        replace(SMALL, relative_attention_max_distance=8)
