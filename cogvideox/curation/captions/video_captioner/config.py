"""Config of the video captioner."""

from dataclasses import dataclass, field

from cogvideox.config import check_minimum
from cogvideox.curation.signals.base import Sampling
from cogvideox.errors import UserError


@dataclass(frozen=True)
class VisionConfig:
    """Config of the vision encoder.

    Attributes:
        path: folder of a vision model of transformers, such as SigLIP or CLIP; empty for the small encoder.
        size: frames are resized to squares of this side, in pixels; a multiple of 8 for the small encoder.
        fps: sampled frames per second.
        max_frames: clips with more frames are sampled evenly.
        pool_frames: number of consecutive frames whose features are averaged to the same tokens.
        channels: channels of the small encoder at 1/2, 1/4 and 1/8 of the size.
        num_layers, num_heads: transformer layers of the small encoder, over all tokens of a clip.
    """

    path: str = ""
    size: int = 48
    fps: float = 4.0
    max_frames: int = 48
    pool_frames: int = 9
    channels: tuple[int, int, int] = (16, 32, 64)
    num_layers: int = 2
    num_heads: int = 4

    def __post_init__(self) -> None:
        if self.size < 8 or (not self.path and self.size % 8):
            raise UserError(f"vision.size={self.size} must be a positive multiple of 8")
        check_minimum(self, "vision.", above=["fps"], max_frames=1, pool_frames=1, num_layers=0)
        if any(number % 8 for number in self.channels) or self.channels[2] % (2 * self.num_heads):
            raise UserError(
                f"vision.channels={self.channels} must be multiples of 8, and the last one a multiple of "
                f"{2 * self.num_heads}, twice vision.num_heads"
            )

    @property
    def sampling(self) -> Sampling:
        """The frames of a clip that the encoder reads."""
        return Sampling(fps=self.fps, longest_side=2 * self.size)


@dataclass(frozen=True)
class DecoderConfig:
    """Config of the language model.

    Attributes:
        path: model folder or GGUF file of a causal language model; empty for a small LLaMA with random weights.
        vocab_size: maximum number of tokens of the small model, whose tokenizer is trained on the captions.
        width, num_layers, num_heads: size of the small model.
    """

    path: str = ""
    vocab_size: int = 512
    width: int = 96
    num_layers: int = 3
    num_heads: int = 4

    def __post_init__(self) -> None:
        if self.vocab_size < 300:
            raise UserError(f"decoder.vocab_size={self.vocab_size} must be at least 300: 256 bytes and special tokens")
        check_minimum(self, "decoder.", num_layers=1, num_heads=1)
        if self.width % (2 * self.num_heads):
            raise UserError(
                f"decoder.width={self.width} must be a multiple of {2 * self.num_heads}, twice decoder.num_heads"
            )


@dataclass(frozen=True)
class CaptionerConfig:
    """Config of the video captioner.

    Attributes:
        max_tokens: maximum number of tokens of a caption.
    """

    vision: VisionConfig = field(default_factory=VisionConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    max_tokens: int = 64

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise UserError(f"max_tokens={self.max_tokens} must be at least 1")
