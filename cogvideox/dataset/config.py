"""Configs of training clips and of latent stores."""

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from cogvideox.errors import UserError
from cogvideox.geometry import NormStatistics, check_frame_count, check_size

CaptionStyle = Literal["short", "plain", "dense", "free"]

DEFAULT_FIRST_FRAMES = 4
"""Number of encodings stored per first frame. They are small compared to a clip of 13 latent frames."""


@dataclass(frozen=True)
class CaptionDropout:
    """Caption dropout for classifier-free guidance. Base class of the configs of training data.

    Attributes:
        text_dropout: probability that a caption is replaced by the unconditional prompt.

    Raises:
        UserError: the probability is out of range.
    """

    text_dropout: float = field(default=0.1, kw_only=True)

    def __post_init__(self) -> None:
        if not 0 <= self.text_dropout <= 1:
            raise UserError(f"text_dropout={self.text_dropout} must be in [0, 1], for example 0.1")


@dataclass(frozen=True)
class ToyboxClips:
    """A set of toybox clips. Clip i shows the scene of seed `first_seed + i`, without held-out compositions.

    Sets with disjoint seeds have no scene in common. Clips of one frame are images of scenes at rest, whose captions
    mention no motion.

    Attributes:
        num_clips: number of clips.
        first_seed: seed of the first scene.
        grammar: world and captions: one toy in a small world (core), one toy (full), one or two toys (pair).
        num_frames: number of frames per clip, 4k+1.
        height, width: size in pixels.
        fps: frames per second.
        first_frames: whether to use only the first frame of each clip, as an image with the clip's captions.

    Raises:
        UserError: a value is out of range.
    """

    num_clips: int
    first_seed: int = 0
    grammar: Literal["core", "full", "pair"] = "core"
    num_frames: int = 9
    height: int = 64
    width: int = 64
    fps: float = 8.0
    first_frames: bool = False

    def __post_init__(self) -> None:
        for name, minimum in (("num_clips", 1), ("first_seed", 0), ("height", 1), ("width", 1)):
            if getattr(self, name) < minimum:
                raise UserError(f"{name}={getattr(self, name)} of the toybox clips must be {minimum} or more")
        if not 0 < self.fps < math.inf:
            raise UserError(f"fps={self.fps} of the toybox clips must be above 0; a typical value is 8")
        check_frame_count(self.num_frames)

    @property
    def seconds(self) -> float:
        """Time from the first to the last frame of a clip."""
        return (self.num_frames - 1) / self.fps

    @property
    def num_rendered(self) -> int:
        """Number of frames of each clip that are rendered."""
        return 1 if self.first_frames else self.num_frames

    def __str__(self) -> str:
        return f"toybox {self.grammar} {self.num_rendered}x{self.height}x{self.width}"


@dataclass(frozen=True)
class ToyboxSource:
    """Rendered toybox clips as training data of the diffusion trainer, with a new caption each time a clip is used.

    Two sources may use the same clips, one of them only those with `num_toys` toys, which are then used more often.

    Raises:
        UserError: the weight is not positive, there is no caption style, the grammar does not have a style, or its
            clips never have `num_toys` toys.
    """

    clips: ToyboxClips  # the rendered clips
    weight: float = 1.0  # sampling weight
    caption_styles: tuple[CaptionStyle, ...] = ("short", "plain", "dense", "free", "free", "free")  # one per use
    num_toys: Literal[1, 2] | None = None  # use only the clips with this number of toys; None: all clips

    def __post_init__(self) -> None:
        if not 0 < self.weight < math.inf:
            raise UserError(f"the weight {self.weight} of {self.clips} must be above 0; remove a source to exclude it")
        if not self.caption_styles:
            raise UserError("caption_styles is empty; it needs at least one style")
        if self.clips.grammar == "full" and "free" in self.caption_styles:
            raise UserError(
                "caption style 'free' does not support the full grammar: remove it from caption_styles, or set "
                "grammar=pair"
            )
        if self.num_toys is not None and self.clips.grammar != "pair":
            raise UserError(
                f"num_toys={self.num_toys} needs clips of the pair grammar, and {self.clips} has another: set "
                "grammar=pair, or num_toys=none"
            )

    def __str__(self) -> str:
        return str(self.clips) if self.num_toys is None else f"{self.clips}, {self.num_toys} toys"


@dataclass(frozen=True)
class ClipFormat:
    """The format that clips are converted to before the VAE: frame rate, length and size.

    Attributes:
        fps: frames per second. Clips below three quarters of this rate are rejected, because frames would be repeated.
        num_frames: 4k+1. Longer clips are cut into windows of this length; shorter ones are trimmed to 4k+1 frames.
        height, width: a fixed size. Every clip is resized to cover it, and center-cropped.
        max_area: maximum number of pixels, instead of a fixed size. Clips approximately keep their aspect ratio and
            are never upscaled.
        multiple: divisor of height and width: the VAE's compression ratio times the transformer's patch size.
        windows: whether to use all windows of a long clip, or only the first.
        first_frames: number of separate encodings of each clip's first frame, with new noise each time, for
            image-to-video models.

    Raises:
        UserError: invalid size, or not exactly one of fixed size and `max_area`.
    """

    fps: float
    num_frames: int
    height: int | None = None
    width: int | None = None
    max_area: int | None = None
    multiple: int = 16
    windows: Literal["all", "first"] = "all"
    first_frames: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.fps < math.inf:
            raise UserError(f"fps={self.fps} must be above 0; typical values are 8 and 16")
        check_frame_count(self.num_frames)
        if (self.height is None) != (self.width is None):
            raise UserError("a fixed size needs both height and width, but only one of them is set")
        if (self.height is None) == (self.max_area is None):
            raise UserError("the size of clips must be set either by height and width or by max_area")
        if self.height is not None and self.width is not None:
            check_size(self.height, self.width, self.multiple)
        if self.max_area is not None and self.max_area < self.multiple**2:
            minimum = f"{self.multiple}x{self.multiple}"
            raise UserError(f"max_area={self.max_area} pixels is too small; the minimum is {minimum}")
        if self.first_frames < 0:
            raise UserError(f"first_frames={self.first_frames} must be 0 or more")

    def with_first_frames(self) -> "ClipFormat":
        """Return the format for an image-to-video model: `first_frames` defaults to `DEFAULT_FIRST_FRAMES`."""
        return replace(self, first_frames=self.first_frames or DEFAULT_FIRST_FRAMES)


@dataclass(frozen=True)
class StoreSettings:
    """Encoding settings of a latent store, with the model properties that training needs without loading the networks.

    Attributes:
        model: folder or name of the model whose networks encoded the clips.
        vae, text_encoder: hashes of their weights.
        scaling_factor: multiplier of the latents before the transformer.
        ratio: spatial compression ratio of the VAE.
        text_length, text_width: number of tokens and feature width of a prompt embedding.
        target: the format of the clips.
        norm_statistics: whether the VAE encoded clips of more than 13 frames in chunks or as whole clips.
    """

    model: str
    vae: str
    text_encoder: str
    latent_channels: int
    scaling_factor: float
    ratio: int
    text_length: int
    text_width: int
    target: ClipFormat
    norm_statistics: NormStatistics = "chunk"
