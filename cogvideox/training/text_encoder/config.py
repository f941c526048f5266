"""Config of text encoder training (`training.text_encoder.trainer`). Imports no torch."""

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

    model: T5Config
    text_length: int  # tokens of a prompt, padding included, as in the transformer
    num_decoder_layers: int
    optim: OptimSettings
    run: RunSettings
    num_sentinels: int = 16  # tokens that mark removed spans
    corrupted: float = 0.15  # share of the tokens that are removed (Raffel et al. 2020, section 3.3.4)
    mean_span: float = 2.0  # mean length of a removed span
    two_toys: float = 0.5  # share of scenes that are drawn among those of two toys; of the others, half have two
    paraphrases: float = 0.25  # fraction of documents of two captions, of which the second is one removed span
    joined: float = 0.5  # fraction of documents of two captions, with single tokens of the second removed
    corrupted_of_joined: float = 0.3  # fraction of the second caption's tokens that are removed
    caption_styles: tuple[CaptionStyle, ...] = ("short", "plain", "dense", "free", "free", "free")
    num_held_out: int = 256  # documents of the validation

    def __post_init__(self) -> None:
        if self.text_length < TEXT_LENGTHS["pair"]:
            raise UserError(f"text_length={self.text_length} must be at least {TEXT_LENGTHS['pair']}")
        for name, minimum in (("num_decoder_layers", 1), ("num_sentinels", 2), ("mean_span", 1), ("num_held_out", 1)):
            if not getattr(self, name) >= minimum:
                raise UserError(f"{name}={getattr(self, name)} must be at least {minimum}")
        for name in ("corrupted", "corrupted_of_joined", "paraphrases", "joined", "two_toys"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name}={getattr(self, name)} must be in [0, 1]")
        if self.paraphrases + self.joined > 1:
            raise UserError(f"paraphrases={self.paraphrases} and joined={self.joined} must not add up to more than 1")
        if not self.caption_styles:
            raise UserError("caption_styles is empty; it needs at least one style")
