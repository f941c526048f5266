"""The text encoder's configuration, field for field what transformers stores in `text_encoder/config.json`.

Imports no torch.
"""

from dataclasses import asdict, dataclass, fields
from typing import Any

from cogvideox.config import from_dict
from cogvideox.errors import UserError

TRANSFORMERS_CLASS = "T5EncoderModel"
_WHERE = "text_encoder/config.json"


@dataclass(frozen=True)
class T5Config:
    """Sizes of a T5 v1.1 encoder. The defaults are XXL (4.76 B parameters), the encoder of every official CogVideoX.

    Raises:
        UserError: a size below 1, or position buckets that do not split into exact and logarithmic ones per direction.
    """

    vocab_size: int = 32128
    d_model: int = 4096
    d_kv: int = 64
    """Width of one head; `num_heads * d_kv` need not be `d_model`."""
    d_ff: int = 10240
    num_layers: int = 24
    num_heads: int = 64
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if name != "layer_norm_epsilon" and value < 1:
                raise UserError(f"the T5 config sets {name}={value}, but the smallest legal value is 1")
        if self.relative_attention_num_buckets % 4:
            legal = max(4, round(self.relative_attention_num_buckets / 4) * 4)
            raise UserError(
                f"the T5 config sets relative_attention_num_buckets={self.relative_attention_num_buckets}, which is "
                "not a multiple of 4 (two directions, each half exact and half logarithmic); "
                f"the nearest legal value is {legal}"
            )
        exact = self.relative_attention_num_buckets // 4
        if self.relative_attention_max_distance <= exact:
            raise UserError(
                f"the T5 config sets relative_attention_max_distance={self.relative_attention_max_distance}, but the "
                f"first {exact} distances have buckets of their own; the smallest legal value is {exact + 1}"
            )

    @classmethod
    def from_transformers(cls, data: dict[str, Any]) -> "T5Config":
        """Read the content of a `text_encoder/config.json`.

        Such files also carry settings of the decoder, of text generation and of the library that wrote them. Those are
        passed over; the ones that choose another encoder than T5 v1.1 are errors.

        Raises:
            UserError: another architecture, or a size is missing or not a whole number.
        """
        model_type = data.get("model_type", "t5")
        if model_type != "t5":
            raise UserError(f"{_WHERE}: the model is {model_type!r}, but only 't5' is supported")
        activation = data.get("feed_forward_proj", "relu")
        if activation not in ("gated-gelu", "gated-gelu_new"):
            raise UserError(
                f"{_WHERE}: feed_forward_proj is {activation!r}, but only 'gated-gelu', that of T5 v1.1, is supported"
            )
        # What transformers assumes of a missing key is T5-small, which is nobody's intention: sizes have to be there.
        sizes = ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads")
        missing = [name for name in sizes if data.get(name) is None]
        if missing:
            raise UserError(f"{_WHERE}: {', '.join(missing)} of the text encoder are missing")
        own = {field.name: data[field.name] for field in fields(cls) if field.name in data}
        return from_dict(cls, own, where=_WHERE)

    def to_transformers(self) -> dict[str, Any]:
        """The content of a `text_encoder/config.json` that `T5EncoderModel.from_pretrained` reads."""
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
