"""Config of text encoder training (`training.text_encoder.trainer`)."""

from dataclasses import dataclass

from cogvideox.dataset.config import CaptionStyle
from cogvideox.errors import UserError
from cogvideox.text.config import T5Config
from cogvideox.toybox.scenes.grammar import TEXT_LENGTHS
from cogvideox.training.config import OptimSettings, RunSettings


@dataclass(frozen=True)
class TextEncoderTraining:
    """Config of a run.

    Raises:
        UserError: a value is out of range.
    """

    model: T5Config  # config of the text encoder
    text_length: int  # tokens of a prompt, padding included, as in the transformer
    num_decoder_layers: int  # layers of the decoder, which is discarded after training
    optim: OptimSettings  # optimizer and learning-rate schedule
    run: RunSettings  # length, batch size, hardware and intervals of the run
    num_sentinels: int = 16  # number of tokens that mark removed spans
    corruption_rate: float = 0.15  # fraction of tokens that are removed (Raffel et al. 2020, section 3.3.4)
    mean_span_length: float = 2.0  # mean length of a removed span in tokens
    two_toy_fraction: float = 0.5  # fraction of scenes sampled with two toys; other scenes have one or two
    paraphrase_fraction: float = 0.25  # fraction of documents of two captions, the second of which is removed
    paired_fraction: float = 0.5  # fraction of documents of two captions, with single tokens of the second removed
    paired_corruption_rate: float = 0.3  # fraction of the second caption's tokens that are removed
    caption_styles: tuple[CaptionStyle, ...] = (
        "short",
        "plain",
        "dense",
        "free",
        "free",
        "free",
    )  # repeated: more frequent
    num_held_out: int = 256  # number of documents for validation

    def __post_init__(self) -> None:
        if self.text_length < TEXT_LENGTHS["pair"]:
            raise UserError(f"text_length={self.text_length} must be at least {TEXT_LENGTHS['pair']}")
        minima = {"num_decoder_layers": 1, "num_sentinels": 2, "mean_span_length": 1, "num_held_out": 1}
        for name, minimum in minima.items():
            if not getattr(self, name) >= minimum:
                raise UserError(f"{name}={getattr(self, name)} must be at least {minimum}")
        fractions = ("corruption_rate", "two_toy_fraction", "paraphrase_fraction", "paired_fraction")
        for name in (*fractions, "paired_corruption_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name}={getattr(self, name)} must be in [0, 1]")
        if self.paraphrase_fraction + self.paired_fraction > 1:
            raise UserError(
                f"paraphrase_fraction={self.paraphrase_fraction} and paired_fraction={self.paired_fraction} must not "
                "add up to more than 1"
            )
        if not self.caption_styles:
            raise UserError("caption_styles is empty; it needs at least one style")
