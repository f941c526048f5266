"""Ablations as data: the training config of every arm, and the findings of the paper that they test. Imports no torch.

An arm is one or more stages of training, each a complete config with its nominal number of steps. A plan scales the
steps of all arms by one factor (`scaled`), so arms with nominally equal compute keep it equal.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from cogvideox import config
from cogvideox.dataset.config import CaptionStyle, ToyboxClips
from cogvideox.errors import UserError
from cogvideox.training.config import RunSettings, VAETraining
from cogvideox.training.diffusion.config import DiffusionTraining

Settings = DiffusionTraining | VAETraining
Equal = Literal["parameters", "tokens", "row budget", "compute", "steps"]
"""What all arms have in common: parameters; tokens of a step; tokens that the rows of a step can hold; FLOPs of the
whole training; optimizer steps."""

PREVIOUS = "previous"
"""In a stage's `model` or `init_from`: the result of the stage before it."""
DATA = "data"
"""First part of the path of a latent store that is written in the output folder (`Ablation.data`)."""

NUM_CHECKPOINTS = 10
"""Checkpoints of a stage. An interrupted run repeats at most this fraction of its steps."""


@dataclass(frozen=True)
class Finding:
    """A finding of the paper: the arm `better` has a better value of `metric` than the arm `worse`.

    Attributes:
        source: section, figure or table of the paper.
    """

    claim: str
    source: str
    metric: str
    better: str
    worse: str


@dataclass(frozen=True)
class Arm:
    """One variant of the training.

    Attributes:
        stages: the stages in order; the last one has the setting under test.
        other_changes: what else differs from the baseline, and why; empty if nothing does.
    """

    name: str
    stages: tuple[Settings, ...]
    other_changes: str = ""

    @property
    def slug(self) -> str:
        """The name as part of a file name."""
        return "".join(char if char.isalnum() else "-" for char in self.name.lower())

    @property
    def settings(self) -> Settings:
        """The config of the last stage."""
        return self.stages[-1]


@dataclass(frozen=True)
class Videos:
    """Videos that a run generates from held-out prompts: their size, and the style of the prompts."""

    num_frames: int
    height: int
    width: int
    style: CaptionStyle = "plain"


@dataclass(frozen=True)
class Evaluation:
    """How every run is scored.

    Attributes:
        clips: held-out clips whose losses (or reconstructions) are measured, by a name that is added to the metric; the
            name of the first set, at the trained size, is empty.
        videos: generated videos, by the same kind of name.
        num_prompts: number of prompts of each set of videos.
        num_inference_steps: denoising steps.
        guidance_scale: scale of classifier-free guidance.
    """

    clips: dict[str, ToyboxClips]
    videos: dict[str, Videos] = field(default_factory=dict)
    num_prompts: int = 32
    num_inference_steps: int = 20
    guidance_scale: float = 4.0


@dataclass(frozen=True)
class OverlayClips:
    """Clips of 9 frames of which some have an overlay, in a latent store (`scores.degraded_clips`)."""

    num_clips: int
    side: int
    overlay_probability: float
    seed: int = 0


@dataclass(frozen=True)
class Ablation:
    """A set of arms; the first one is the baseline.

    Attributes:
        question: what the ablation decides, in one sentence.
        field: the setting in which the arms differ.
        equal: what all arms have in common.
        limits: how it differs from the paper's experiment.
        data: clips that all runs share, written once.
    """

    name: str
    question: str
    field: str
    equal: tuple[Equal, ...]
    arms: tuple[Arm, ...]
    findings: tuple[Finding, ...]
    evaluation: Evaluation
    limits: str = ""
    data: OverlayClips | None = None

    def __post_init__(self) -> None:
        names = [arm.name for arm in self.arms]
        if len(set(names)) < max(len(names), 2):
            raise ValueError(f"{self.name}: an ablation has two or more arms of different names, not {names}")
        for finding in self.findings:
            if not {finding.better, finding.worse} <= set(names):
                raise ValueError(f"{self.name}: {finding.claim!r} is about arms that do not exist")

    @property
    def baseline(self) -> Arm:
        return self.arms[0]

    @property
    def is_vae(self) -> bool:
        """Whether the arms train a VAE."""
        return isinstance(self.baseline.settings, VAETraining)

    def arm(self, name: str) -> Arm:
        """Return the arm `name`.

        Raises:
            UserError: there is no such arm.
        """
        for arm in self.arms:
            if arm.name == name:
                return arm
        raise UserError(f"the ablation {self.name} has no arm {name!r}: {', '.join(arm.name for arm in self.arms)}")


def variant(base: Settings, changes: dict[str, Any]) -> Any:
    """Return a config with changed values, by dotted name; values may be other configs."""
    return config.override(base, changes)


def differences(arm: Settings, base: Settings) -> dict[str, tuple[Any, Any]]:
    """Return the settings in which two configs differ, by dotted name: the value of `base`, and that of `arm`."""
    old, new = (_flattened(config.to_dict(settings)) for settings in (base, arm))
    names = [*old, *(name for name in new if name not in old)]
    return {name: (old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)}


def _flattened(data: Any, name: str = "") -> dict[str, Any]:
    """Flatten nested plain data as `config.dotted` does, and lists of groups too: "toybox[0].weight"."""
    if isinstance(data, list) and data and all(isinstance(item, dict) for item in data):
        items = {f"[{index}]": item for index, item in enumerate(data)}
        return {key: value for part, item in items.items() for key, value in _flattened(item, name + part).items()}
    if not isinstance(data, dict):
        return {name: data}
    values: dict[str, Any] = {}
    for part, inner in data.items():
        values |= _flattened(inner, f"{name}.{part}" if name else str(part))
    return values


def num_steps_of(stages: Sequence[Settings]) -> int:
    """Return the number of steps of all stages."""
    return sum(stage.run.num_steps for stage in stages)


def scaled(settings: Settings, num_steps: int, seed: int) -> Any:
    """Return a stage with a different number of steps: warm-up, EMA and the phases of a VAE are scaled with it.

    Every step is logged, for the variance of the loss.
    """
    ratio = num_steps / settings.run.num_steps
    run, optim = settings.run, settings.optim
    averaged = ratio / (1 - run.ema_decay)  # number of steps over which the EMA averages
    changed: RunSettings = replace(
        run,
        num_steps=num_steps,
        seed=seed,
        ema_decay=round(max(0.0, 1 - 1 / averaged), 6),
        log_interval=1,
        save_interval=max(1, num_steps // NUM_CHECKPOINTS),
        validate_interval=0,
        keep_checkpoints=1,
    )
    warmup = replace(optim, warmup_steps=round(optim.warmup_steps * ratio))
    if isinstance(settings, DiffusionTraining):
        return replace(settings, run=changed, optim=warmup)
    names = ("crop_steps", "encoder_steps", "disc_start", "disc_warmup_steps")
    phases = {name: round(getattr(settings, name) * ratio) for name in names}
    phases["disc_warmup_steps"] = min(phases["disc_warmup_steps"], phases["disc_start"])
    return replace(settings, run=changed, optim=warmup, **phases)


def located(settings: Settings, out: Path, previous: Path | None) -> Any:
    """Return a stage with the paths of its data and of the stage before it."""
    if isinstance(settings, VAETraining):
        return replace(settings, init_from=str(previous)) if settings.init_from == PREVIOUS else settings
    sources = tuple(
        replace(source, store=str(out / source.store)) if Path(source.store).parts[0] == DATA else source
        for source in settings.data
    )
    assert previous is not None or settings.model != PREVIOUS
    model = str(previous) if settings.model == PREVIOUS else settings.model
    return replace(settings, data=sources, model=model)
