"""Config of the captioning pipeline: a YAML or JSON file with models, stages, checks and the budget."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cogvideox.config import check_minimum
from cogvideox.curation.captions.back_ends.prompts import Prompt
from cogvideox.curation.captions.quality.checks import CheckConfig
from cogvideox.errors import UserError
from cogvideox.filter_policy.policy import Bound, Policy
from cogvideox.filter_policy.schedule import Schedule, Threshold
from cogvideox.llm.chat import Sampling
from cogvideox.llm.limits import Budget
from cogvideox.llm.models import ModelConfig

STAGES = ("short", "frames", "summary", "direct")
MIX_COLUMN = "caption_mix"
SHORT_WORDS = 40


@dataclass(frozen=True)
class StageConfig:
    """Config of one captioning stage.

    Attributes:
        kind: back-end: "model", "captioner", or one without a model ("tags", "toybox", "rules").
        model: name of the model in `CaptionPipelineConfig.models`, required for the kind "model".
        prompt: prompt that replaces the default.
        max_words: maximum number of words; at most 40 for `short`, and at most `checks.max_words` for the others.
        decoding: decoding parameters.
        longest_side: longest side of the frames sent to a model, in pixels.
        num_frames: number of frames of a clip per request; 0 means 8, or 24 for `direct`.
        hints: whether to add measured facts (text, objects, camera) to prompts with frames.
        path: folder of a video captioner, required for the kind "captioner".
        batch_size, processes: clips per batch of a video captioner, and its number of processes (0: this one).
    """

    kind: str
    model: str = ""
    prompt: Prompt | None = None
    max_words: int = 100
    decoding: Sampling = field(default_factory=Sampling)
    longest_side: int = 768
    num_frames: int = 0
    hints: bool = True
    path: Path | None = None
    batch_size: int = 8
    processes: int = 0

    def __post_init__(self) -> None:
        if (self.kind == "model") != bool(self.model):
            raise UserError(
                f"kind={self.kind}: a stage needs `model`, the name of a model, if and only if its kind is model"
            )
        if (self.kind == "captioner") != (self.path is not None):
            raise UserError(
                f"kind={self.kind}: a stage needs `path`, a captioner's folder, if and only if its kind is captioner"
            )
        ignored: dict[str, Any] = {"batch_size": 8, "processes": 0}
        if self.kind == "captioner":
            ignored = {"prompt": None, "decoding": Sampling(), "longest_side": 768, "num_frames": 0, "hints": True}
        for name, default in ignored.items():
            if getattr(self, name) != default:
                raise UserError(f"{name} has no effect on a stage of kind {self.kind}: remove it")
        check_minimum(self, batch_size=1, processes=0, max_words=2, longest_side=16, num_frames=0)


@dataclass(frozen=True)
class CaptionPipelineConfig:
    """Config of the captioning pipeline.

    Attributes:
        models: models by name.
        short, frames, summary, direct: stage configs; None disables a stage.
        interval: seconds between captioned frames (2 in the paper).
        checks: limits of the caption checks.
        repairs: maximum number of retries after a caption failed the checks.
        budget: limits on the calls of all runs with the output folder.
        short_fraction: fraction of clips trained with the short caption, a number or a function of the training step;
            None trains on long captions only.
        measure: signals to measure where the input lacks their columns.
    """

    models: dict[str, ModelConfig] = field(default_factory=dict)
    short: StageConfig | None = None
    frames: StageConfig | None = None
    summary: StageConfig | None = None
    direct: StageConfig | None = None
    interval: float = 2.0
    checks: CheckConfig = field(default_factory=CheckConfig)
    repairs: int = 2
    budget: Budget = field(default_factory=Budget)
    short_fraction: Threshold | None = None
    measure: tuple[str, ...] = ("faces", "objects", "tags", "text")

    def __post_init__(self) -> None:
        if not self.stages:
            raise UserError(f"the pipeline config needs at least one of the stages {', '.join(STAGES)}")
        if self.summary is not None and self.short is None and self.frames is None:
            raise UserError("the stage summary merges captions of other stages: add the stage short or frames")
        for name, stage in self.stages.items():
            if stage.model and stage.model not in self.models:
                known = ", ".join(self.models) or "none"
                raise UserError(f"{name}.model={stage.model} is not in models; available: {known}")
        check_minimum(self, interval=0.01, repairs=0)
        if self.short_fraction is not None:
            if self.short is None or self.long_stage is None:
                raise UserError(
                    "short_fraction needs two kinds of captions: add the stage short, and summary or direct"
                )
            if not all(0 <= fraction <= 1 for fraction in _values(self.short_fraction)):
                raise UserError(f"short_fraction={self.short_fraction} must be between 0 and 1")

    @property
    def stages(self) -> dict[str, StageConfig]:
        """Configs of the enabled stages, in execution order."""
        stages = {"short": self.short, "frames": self.frames, "summary": self.summary, "direct": self.direct}
        return {name: stage for name, stage in stages.items() if stage is not None}

    @property
    def long_stage(self) -> str | None:
        """Name of the stage that writes the long caption: `direct`, otherwise `summary`."""
        return "direct" if self.direct is not None else "summary" if self.summary is not None else None

    def max_words(self, name: str) -> int:
        """Return the maximum number of words of a stage's captions, for its prompt and its checks."""
        return min(self.stages[name].max_words, SHORT_WORDS if name == "short" else self.checks.max_words)

    def mix_policy(self) -> Policy:
        """Return the filter policy that selects one row per clip and applies `short_fraction` at every step.

        The short row of a clip has `caption_mix` = u and the long row u + 1, where u in [0, 1) is a hash of its id. A
        window of width 1 that starts at 1 - fraction contains exactly one of the two rows.
        """
        fraction = 0.0 if self.short_fraction is None else self.short_fraction
        low, high = (_minus(start, fraction) for start in (1.0, 2.0 - 1e-9))
        return Policy((Bound(MIX_COLUMN, at_least=low, at_most=high),))


def _minus(start: float, fraction: Threshold) -> Threshold:
    if isinstance(fraction, Schedule):
        return replace(fraction, values=tuple(start - value for value in fraction.values))
    return start - fraction


def _values(fraction: Threshold) -> tuple[float, ...]:
    return fraction.values if isinstance(fraction, Schedule) else (fraction,)
