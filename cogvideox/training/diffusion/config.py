"""Config of diffusion training on encoded clips (`training.diffusion.trainer`).

A run starts from a model folder and exports a model folder, so that stages can be chained: low resolution, high
resolution, high-quality data (paper section 3.2 and appendix A, table 5); or fine-tuning on a user's clips.
"""

from dataclasses import dataclass, field, replace
from typing import Literal

from cogvideox.config import VARIANT
from cogvideox.dataset.config import CaptionDropout, ClipFormat, ToyboxClips, ToyboxSource
from cogvideox.dataset.mixture import DataSource, MixtureSettings, Packing, TimestepSampling
from cogvideox.diffusion.config import ScheduleConfig
from cogvideox.errors import UserError
from cogvideox.filter_policy.policy import Policy
from cogvideox.geometry import NormStatistics, check_frame_count, nearest_sizes
from cogvideox.pretrained.model_settings import ModelSettings, NullText
from cogvideox.training.config import OptimSettings, RunSettings
from cogvideox.transformer.config import PositionRule, TransformerConfig
from cogvideox.transformer.lora.config import LoRASettings

SAMPLE_MULTIPLE = 16
"""Heights and widths are multiples of this many pixels: the VAE's compression ratio times the patch size."""


@dataclass(frozen=True)
class SampleSettings:
    """Sample videos during training; none without prompts.

    Raises:
        UserError: a value is out of range, or not a valid size or frame count.
    """

    prompts: tuple[str, ...] = ()  # one sample video for each
    images: tuple[str, ...] = ()  # image files, one for each prompt, for an image-to-video model
    interval: int = 500  # steps between sample sheets; 0: only after the last step
    num_inference_steps: int | None = None  # for this and the fields below, None is the model's default
    num_frames: int | None = None  # 4k+1
    height: int | None = None  # in pixels
    width: int | None = None  # in pixels

    def __post_init__(self) -> None:
        for name, minimum in (("interval", 0), ("num_inference_steps", 1)):
            value = getattr(self, name)
            if value is not None and value < minimum:
                raise UserError(f"samples.{name}={value} must be at least {minimum}")
        if self.num_frames is not None:
            check_frame_count(self.num_frames, "samples.num_frames")
        for name, side in (("height", self.height), ("width", self.width)):
            if side is not None and side not in (nearest := nearest_sizes(side, SAMPLE_MULTIPLE)):
                valid = " or ".join(map(str, nearest))
                raise UserError(
                    f"samples.{name}={side} is not a multiple of {SAMPLE_MULTIPLE} pixels; the nearest are {valid}"
                )


@dataclass(frozen=True)
class DiffusionTraining(CaptionDropout):
    """Config of a run of `training.diffusion.trainer`.

    `run.batch_size` is the number of packed rows of an optimizer step, over all ranks and micro-batches.

    Raises:
        UserError: settings conflict; see also `MixtureSettings`.
    """

    model: str  # the base model; clips are encoded with its VAE and text encoder
    row_tokens: int  # capacity of a packed row in tokens, text and video
    optim: OptimSettings  # optimizer and learning-rate schedule
    run: RunSettings  # length, batch size, hardware and intervals of the run
    target: ClipFormat  # format of clips that are encoded from folders
    data: tuple[DataSource, ...] = ()  # latent stores, or folders of videos and captions
    validation: str | None = None  # a latent store or a folder of held-out clips
    toybox: tuple[ToyboxSource, ...] = ()  # rendered clips, in addition to `data`, with a new caption in every epoch
    toybox_validation: ToyboxClips | None = None  # held-out rendered clips, instead of `validation`
    transformer: TransformerConfig | None = None  # a transformer to train from scratch; None: the model's, trained
    add_image: bool = False  # turn a text-to-video model into image-to-video (paper, appendix D)
    lora: LoRASettings | None = None  # None: train all weights
    image_fraction: float | None = None  # fraction of samples that are images; None: as in the data
    policy: Policy = field(default_factory=Policy)  # which clips are used, by step
    norm_statistics: NormStatistics | None = None  # for encoding folders; None: as the model's training clips
    null_text: NullText | None = None  # embedding of dropped captions; None: as in the model's training
    image_dropout: float = 0.05  # probability that the conditioning image is dropped
    timestep_sampling: TimestepSampling = "explicit_uniform"  # stratified, or independent
    timestep_ranks: int | None = field(default=None, metadata=VARIANT)
    """number of ranks for explicit_uniform_ranks; None: the data-parallel world size"""
    packing: Packing = field(default="frame_pack", metadata=VARIANT)  # clips of a row: of all lengths, or of one length
    schedule: ScheduleConfig | None = field(default=None, metadata=VARIANT)
    """noise schedule and prediction type; None: the model's"""
    position_rule: PositionRule | None = None  # rotary positions at other sizes; None: the rule of the model
    checkpointing: Literal["none", "full", "selective"] = "none"  # activation checkpointing
    sequence: int = 1  # sequence-parallel size: number of ranks over which a row is split
    samples: SampleSettings = field(default_factory=SampleSettings)  # sample videos during training
    export_dtype: Literal["float32", "float16", "bfloat16"] = "bfloat16"  # dtype of the exported weights

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lora is not None and self.transformer is not None:
            raise UserError("a LoRA needs a trained model, not one from scratch: remove either lora or transformer")
        if self.lora is not None and self.optim.name != "adamw":
            raise UserError(f"optim.name={self.optim.name} does not support LoRA: use adamw")
        if self.lora is not None and self.add_image:
            raise UserError("a LoRA cannot add input channels: remove add_image, or train all weights")
        if self.lora is not None and self.schedule is not None:
            raise UserError("a LoRA file has no noise schedule: remove schedule, or train all weights")
        if self.lora is not None and self.lora.base_weights != "exact":
            base_weights = f"lora.base_weights={self.lora.base_weights}"
            if self.run.compile:
                raise UserError(f"run.compile does not support {base_weights}: set it to false")
            if self.sequence > 1:
                raise UserError(f"sequence={self.sequence} does not support {base_weights}: set sequence=1")
        if self.run.compile and self.transformer is not None and self.transformer.needs_layout:
            raise UserError(
                "run.compile does not support transformer.attention=factorized and transformer.separate_weights=all, "
                "which would be compiled again for every packed row: set run.compile=false"
            )
        if self.sequence < 1:
            raise UserError(f"sequence={self.sequence} must be at least 1")
        if self.toybox_validation is not None and self.validation is not None:
            raise UserError("validation and toybox_validation are both set: remove one of them")
        if self.add_image and self.uses_toybox:
            raise UserError(
                "toybox clips have no encoded first frames: remove toybox and toybox_validation, or add_image"
            )
        if self.data or self.toybox:
            self.mixture()

    @property
    def uses_toybox(self) -> bool:
        """Whether the run uses rendered clips."""
        return bool(self.toybox) or self.toybox_validation is not None

    def resolved(self, model: ModelSettings) -> "DiffusionTraining":
        """Return the config with unset values replaced by the model's."""
        return replace(
            self,
            norm_statistics=self.norm_statistics or model.norm_statistics,
            null_text=self.null_text or model.training_null_text or model.null_text,
        )

    def mixture(self) -> MixtureSettings:
        """Return the settings of the data loader."""
        return MixtureSettings(
            sources=(*self.data, *(DataSource(str(source), source.weight) for source in self.toybox)),
            row_tokens=self.row_tokens,
            num_rows=self.run.batch_size,
            image_fraction=self.image_fraction,
            policy=self.policy,
            text_dropout=self.text_dropout,
            image_dropout=self.image_dropout,
            timestep_sampling=self.timestep_sampling,
            timestep_ranks=self.timestep_ranks,
            packing=self.packing,
        )
