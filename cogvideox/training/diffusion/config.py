"""What a stage of training on encoded clips is told (`stage_loop`). Imports no torch.

A stage goes on from a model folder and leaves a model folder, so that stages chain: low resolution, high resolution,
the best of the data (paper section 3.2 and appendix A, table 5); or a user's own clips, as all weights or as a LoRA.
"""

from dataclasses import dataclass, field
from typing import Literal

from cogvideox.dataset.config import ClipFormat
from cogvideox.dataset.mixture import DataSource, MixtureSettings
from cogvideox.errors import UserError
from cogvideox.filter_policy import Policy
from cogvideox.geometry import check_frames, nearest_sizes
from cogvideox.training.config import OptimSettings, RunSettings
from cogvideox.transformer.config import GridRule, TransformerConfig

SAMPLE_MULTIPLE = 16
"""Pixels: the VAE's ratio times the transformer's patch, in all of these models."""


@dataclass(frozen=True)
class LoRASettings:
    """Learn small factors beside the layers (Hu et al. 2021) and leave the model as it is.

    Raises:
        UserError: a rank below 1, no targets.
    """

    rank: int = 64
    alpha: float | None = None  # the rank, unless given
    targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")  # ends of layers' names in diffusers
    trigger: str | None = None  # what prompts have to say for it to show; only noted in the file

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise UserError(f"lora.rank={self.rank} is below the smallest legal value, 1")
        if not self.targets:
            raise UserError("lora.targets is empty; to_q, to_k, to_v and to_out.0 are usual")


@dataclass(frozen=True)
class SampleSettings:
    """Videos that are made on the way, to look at. No prompts: none are.

    Raises:
        UserError: a value that no video can have; it would come up only when the first is made.
    """

    prompts: tuple[str, ...] = ()
    images: tuple[str, ...] = ()  # files, one for each prompt, that the videos of an image model begin with
    interval: int = 500  # steps from one sheet to the next; 0 for the last step alone
    num_inference_steps: int | None = None  # the model's own, unless given
    num_frames: int | None = None
    height: int | None = None
    width: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("interval", 0), ("num_inference_steps", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"samples.{name}={value} is below the smallest legal value, {least}")
        if self.num_frames is not None:
            check_frames(self.num_frames, "samples.num_frames")
        for name, side in (("height", self.height), ("width", self.width)):
            if side is not None and side not in (nearest := nearest_sizes(side, SAMPLE_MULTIPLE)):
                legal = " or ".join(map(str, nearest))
                raise UserError(
                    f"samples.{name}={side} is not a multiple of {SAMPLE_MULTIPLE} pixels; the nearest: {legal}"
                )


@dataclass(frozen=True)
class DiffusionTraining:
    """A run of `stage_loop`.

    `run.batch_size` counts rows of a step, over all ranks and all that is accumulated.

    Raises:
        UserError: what `MixtureSettings` refuses, once there are data; settings that contradict each other.
    """

    model: str  # goes on learning; its VAE and text encoder made the latents and features
    row_tokens: int  # the most tokens of a row, text and video of its clips together
    optim: OptimSettings
    run: RunSettings
    target: ClipFormat  # what clips become that are not encoded yet
    data: tuple[DataSource, ...] = ()  # stores, or folders of videos and captions, which are encoded first
    validation: str | None = None  # likewise
    transformer: TransformerConfig | None = None  # learn this one from nothing, in place of the model's
    add_image: bool = False  # to a model of text alone, which then learns to begin with an image (paper, appendix D)
    lora: LoRASettings | None = None  # None: all weights learn
    image_share: float | None = None  # of the samples; None: as they come
    policy: Policy = field(default_factory=Policy)  # which clips, at which step
    text_dropout: float = 0.1
    image_dropout: float = 0.05  # how often a clip's image is left out, where the model takes one
    strata: Literal["slots", "ranks", "random"] = "slots"  # explicit uniform sampling: an interval for each clip, rank
    position_rule: GridRule | None = None  # of rotary positions at other sizes than the base; None: the model's own
    checkpointing: Literal["none", "full", "selective"] = "none"  # what is recomputed instead of kept
    sequence: int = 1  # ranks that share the tokens of a row
    samples: SampleSettings = field(default_factory=SampleSettings)
    stored_as: Literal["float32", "float16", "bfloat16"] = "bfloat16"  # the weights of the finished model

    def __post_init__(self) -> None:
        if self.lora is not None and self.transformer is not None:
            raise UserError("a LoRA is for a model that has learned: leave out either lora or transformer")
        if self.lora is not None and self.optim.name != "adamw":
            raise UserError(f"optim.name={self.optim.name} is for whole matrices, not for those of a LoRA: use adamw")
        if self.lora is not None and self.add_image:
            raise UserError("a LoRA leaves the model's channels as they are: leave out add_image, or train all weights")
        if self.sequence < 1:
            raise UserError(f"sequence={self.sequence} is below the smallest legal value, 1")
        if self.data:
            self.mixture()

    def mixture(self) -> MixtureSettings:
        """What the loader is told."""
        return MixtureSettings(
            sources=self.data,
            row_tokens=self.row_tokens,
            num_rows=self.run.batch_size,
            image_share=self.image_share,
            policy=self.policy,
            text_dropout=self.text_dropout,
            image_dropout=self.image_dropout,
            strata=self.strata,
        )
