"""Configs of captioner training."""

from dataclasses import dataclass, field

from cogvideox.config import check_minimum
from cogvideox.curation.captions.video_captioner.config import CaptionerConfig, DecoderConfig
from cogvideox.dataset.config import CaptionStyle
from cogvideox.errors import UserError
from cogvideox.toybox.scenes.grammar import GRAMMARS
from cogvideox.training.config import OptimSettings, RunSettings


@dataclass(frozen=True)
class LanguageLora:
    """LoRA of a language model, merged into its weights at the end of the run.

    Raises:
        UserError: a value is out of range.
    """

    rank: int = 16
    alpha: float = 32.0
    target_modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

    def __post_init__(self) -> None:
        check_minimum(self, "lora.", above=["alpha"], rank=1)
        if not self.target_modules:
            raise UserError("lora.target_modules is empty: name at least one kind of layer, such as q_proj")


@dataclass(frozen=True)
class SummarizerTraining:
    """Config of a run of `training.captioner.summarizer_trainer`.

    Attributes:
        model: the language model to fine-tune; without `model.path`, a small one with random weights.
        data: output folders of `cogvideox caption`; their accepted summaries are the training targets.
        lora: LoRA; None trains all weights.
        max_tokens: maximum number of tokens of prompt and summary; longer pairs are skipped.
        validation_fraction: fraction of clips used for validation only.
        num_generated: number of validation clips that are summarized.

    Raises:
        UserError: a value is out of range.
    """

    model: DecoderConfig
    data: tuple[str, ...]
    optim: OptimSettings
    run: RunSettings
    lora: LanguageLora | None = None
    max_tokens: int = 1024
    validation_fraction: float = 0.1
    num_generated: int = 8

    def __post_init__(self) -> None:
        if not 0 < self.validation_fraction < 1:
            raise UserError(f"validation_fraction={self.validation_fraction} must be above 0 and below 1")
        check_minimum(self, max_tokens=16, num_generated=0)


@dataclass(frozen=True)
class CaptionedScenes:
    """Toybox scenes rendered during training, each with a caption of all its facts. Every step has new scenes.

    Attributes:
        num_frames: possible numbers of frames of a clip, at the frame rate of the vision encoder.

    Raises:
        UserError: a value is out of range.
    """

    grammar: str = "pair"
    num_frames: tuple[int, ...] = (4, 5, 6, 7)
    caption_styles: tuple[CaptionStyle, ...] = ("plain", "dense")

    def __post_init__(self) -> None:
        if self.grammar not in GRAMMARS:
            raise UserError(f"scenes.grammar={self.grammar} does not exist; available: {', '.join(GRAMMARS)}")
        if not self.num_frames or min(self.num_frames) < 2:
            raise UserError(f"scenes.num_frames={self.num_frames} must be one or more numbers of at least 2")
        if not self.caption_styles:
            raise UserError("scenes.caption_styles is empty; it needs at least one style")


@dataclass(frozen=True)
class CaptionerTraining:
    """Config of a run of `training.captioner.captioner_trainer`.

    Attributes:
        data: output folders of `cogvideox caption`, whose accepted captions are the training targets; empty trains on
            `scenes`.
        pretraining_steps: number of initial steps that train only the vision encoder, to predict the facts of scenes.
        fact_weight: weight of the loss of facts after pretraining.
        freeze_vision: do not train a vision encoder loaded from `model.vision.path`.
        lora: LoRA of the decoder; None trains all its weights.
        num_held_out: number of validation clips.
        validation_fraction: fraction of the clips in `data` used for validation only.

    Raises:
        UserError: a value is out of range, or settings conflict.
    """

    model: CaptionerConfig
    optim: OptimSettings
    run: RunSettings
    scenes: CaptionedScenes = field(default_factory=CaptionedScenes)
    data: tuple[str, ...] = ()
    pretraining_steps: int = 0
    fact_weight: float = 0.0
    freeze_vision: bool = False
    lora: LanguageLora | None = None
    num_held_out: int = 64
    validation_fraction: float = 0.1

    def __post_init__(self) -> None:
        if self.data and (self.pretraining_steps or self.fact_weight):
            raise UserError("pretraining_steps and fact_weight need the facts of rendered scenes: set both to 0")
        if self.freeze_vision and not self.model.vision.path:
            raise UserError("freeze_vision needs a trained encoder: set model.vision.path")
        check_minimum(self, pretraining_steps=0, fact_weight=0, num_held_out=1)
        if not 0 < self.validation_fraction < 1:
            raise UserError(f"validation_fraction={self.validation_fraction} must be above 0 and below 1")
