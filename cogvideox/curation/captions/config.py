"""The config of a caption ladder: a YAML or JSON file with models, rungs, checks and the budget."""

from dataclasses import dataclass, field, replace

from cogvideox.curation.captions.back_ends.prompts import Prompt
from cogvideox.curation.captions.quality.checks import CheckConfig
from cogvideox.errors import UserError
from cogvideox.filter_policy.policy import Bound, Policy
from cogvideox.filter_policy.schedule import Schedule, Threshold
from cogvideox.llm.chat import Sampling
from cogvideox.llm.limits import Budget
from cogvideox.llm.models import ModelConfig

RUNGS = ("short", "frames", "summary", "direct")
MIX_COLUMN = "caption_mix"


@dataclass(frozen=True)
class RungConfig:
    """A rung of the ladder.

    Attributes:
        kind: back-end: "model", or one that needs none ("tags", "toybox", "rules").
        model: name of the model in `Ladder.models`, for the kind "model".
        prompt: replaces the default prompt.
        max_words: longest caption, in words; the short caption's default is 40.
        decoding: parameters of generation.
        longest_side: of the frames that are sent to a model, in pixels.
        num_frames: frames of a clip that are sent at once; 0 is 8, or 24 for `direct`.
        hints: whether measured facts (text, objects, camera) are added to prompts with frames.
    """

    kind: str
    model: str = ""
    prompt: Prompt | None = None
    max_words: int = 100
    decoding: Sampling = field(default_factory=Sampling)
    longest_side: int = 768
    num_frames: int = 0
    hints: bool = True

    def __post_init__(self) -> None:
        if (self.kind == "model") != bool(self.model):
            raise UserError("a rung of the kind model needs the name of a model, and other kinds need none")
        if self.max_words < 2 or self.longest_side < 16 or self.num_frames < 0:
            raise UserError("max_words must be 2 or more, longest_side 16 or more, num_frames 0 or more")


@dataclass(frozen=True)
class Ladder:
    """A caption ladder.

    Attributes:
        models: models by name.
        short, frames, summary, direct: the rungs; those that are None are left out.
        interval: seconds between the frames that are captioned (2 in the paper).
        repairs: how often a model is asked again after a caption failed the checks.
        budget: of all calls in the output folder, of all runs.
        short_fraction: fraction of the clips that are trained with their short caption, a number or a function of the
            training step; None trains on long captions only.
        measure: signals that are measured where the clips have no such columns.
    """

    models: dict[str, ModelConfig] = field(default_factory=dict)
    short: RungConfig | None = None
    frames: RungConfig | None = None
    summary: RungConfig | None = None
    direct: RungConfig | None = None
    interval: float = 2.0
    checks: CheckConfig = field(default_factory=CheckConfig)
    repairs: int = 2
    budget: Budget = field(default_factory=Budget)
    short_fraction: Threshold | None = None
    measure: tuple[str, ...] = ("faces", "objects", "tags", "text")

    def __post_init__(self) -> None:
        if not self.rungs:
            raise UserError(f"a ladder needs at least one of the rungs {', '.join(RUNGS)}")
        if self.summary is not None and self.short is None and self.frames is None:
            raise UserError("summary needs short or frames, whose captions it merges")
        for name, rung in self.rungs.items():
            if rung.model and rung.model not in self.models:
                known = ", ".join(self.models) or "none"
                raise UserError(f"{name}.model={rung.model} is not in models; available: {known}")
        if self.interval <= 0 or self.repairs < 0:
            raise UserError("interval must be above 0, and repairs 0 or more")
        if self.short_fraction is not None:
            if self.short is None or self.long_rung is None:
                raise UserError("short_fraction needs the rung short, and summary or direct")
            if not all(0 <= fraction <= 1 for fraction in _values(self.short_fraction)):
                raise UserError("short_fraction must be between 0 and 1")

    @property
    def rungs(self) -> dict[str, RungConfig]:
        """The rungs that are not left out, in the order in which they run."""
        rungs = {"short": self.short, "frames": self.frames, "summary": self.summary, "direct": self.direct}
        return {name: rung for name, rung in rungs.items() if rung is not None}

    @property
    def long_rung(self) -> str | None:
        """The rung whose caption is the long one: `direct`, otherwise `summary`."""
        return "direct" if self.direct is not None else "summary" if self.summary is not None else None

    def mix_policy(self) -> Policy:
        """Return the filter policy that selects one row per clip, so that `short_fraction` holds at every step.

        The short row of a clip has `caption_mix` = u and the long row u + 1, where u in [0, 1) is a hash of its id. A
        window of width 1 that starts at 1 - fraction has exactly one of them.
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
