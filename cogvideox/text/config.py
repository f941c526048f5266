"""Configuration of the text encoder, with the fields of `text_encoder/config.json` in transformers."""

from dataclasses import asdict, dataclass, fields
from typing import Any

from cogvideox.config import from_dict
from cogvideox.errors import UserError
from cogvideox.untrusted.files import check_sizes

TRANSFORMERS_CLASS = "T5EncoderModel"
_WHERE = "text_encoder/config.json"


@dataclass(frozen=True)
class T5Config:
    """Architecture of a T5 v1.1 encoder. The defaults are XXL (4.76 B parameters), the encoder of all official models.

    Raises:
        UserError: a size is below 1, or the number of position buckets or the maximum distance is invalid.
    """

    vocab_size: int = 32128
    d_model: int = 4096
    d_kv: int = 64
    """Width of a head; `num_heads * d_kv` need not equal `d_model`."""
    d_ff: int = 10240
    num_layers: int = 24
    num_heads: int = 64
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if name != "layer_norm_epsilon" and value < 1:
                raise UserError(f"{name}={value} of the T5 config must be 1 or more")
        check_sizes(asdict(self), "the text encoder")
        if self.relative_attention_num_buckets % 4:
            valid = max(4, round(self.relative_attention_num_buckets / 4) * 4)
            raise UserError(
                f"relative_attention_num_buckets={self.relative_attention_num_buckets} of the T5 config must be a "
                "multiple of 4 (for two directions, half of the buckets exact and half logarithmic); "
                f"the nearest is {valid}"
            )
        exact = self.relative_attention_num_buckets // 4
        if self.relative_attention_max_distance <= exact:
            raise UserError(
                f"relative_attention_max_distance={self.relative_attention_max_distance} of the T5 config must be "
                f"{exact + 1} or more, because the first {exact} distances have buckets of their own"
            )

    @classmethod
    def from_transformers(cls, data: dict[str, Any]) -> "T5Config":
        """Parse the content of a `text_encoder/config.json`.

        Settings of the decoder, of text generation and of the library are ignored. Settings of an encoder other than
        T5 v1.1 are errors.

        Raises:
            UserError: an unsupported architecture, or a size is missing or not an integer.
        """
        model_type = data.get("model_type", "t5")
        if model_type != "t5":
            raise UserError(f"{_WHERE}: the model is {model_type!r}, but only 't5' is supported")
        activation = data.get("feed_forward_proj", "relu")
        if activation not in ("gated-gelu", "gated-gelu_new"):
            raise UserError(
                f"{_WHERE}: feed_forward_proj is {activation!r}, but only 'gated-gelu' (T5 v1.1) is supported"
            )
        # Sizes are required, because the defaults of transformers are those of T5-small.
        sizes = ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads")
        missing = [name for name in sizes if data.get(name) is None]
        if missing:
            raise UserError(f"{_WHERE}: {', '.join(missing)} of the text encoder are missing")
        values = {field.name: data[field.name] for field in fields(cls) if field.name in data}
        return from_dict(cls, values, where=_WHERE)

    def to_transformers(self) -> dict[str, Any]:
        """Return the content of a `text_encoder/config.json` for transformers' `T5EncoderModel`."""
        return {
            "architectures": [TRANSFORMERS_CLASS],
            "model_type": "t5",
            **asdict(self),
            "feed_forward_proj": "gated-gelu",
            "dropout_rate": 0.0,
            "is_encoder_decoder": False,
            "tie_word_embeddings": False,
            "use_cache": False,
            "pad_token_id": 0,
            "eos_token_id": 1,
        }
