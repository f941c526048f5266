"""Protocols of scores: how they were measured. A score without a protocol cannot be formatted, printed or reported."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from cogvideox.records import Score
from cogvideox.version import __version__

UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """All settings on which a score depends. Settings that external videos do not record are "unknown".

    Attributes:
        suite: name of the suite, and a hash of its prompts.
        prompts: variant of the prompts that the model got: "original", or the name of a rewritten set.
        model: model name, or the folder of videos.
        weights: hash of the model's weights.
        sampler, num_inference_steps, guidance_scale: sampling settings.
        seeds: seeds of the videos, such as "100..399".
        num_frames, height, width, fps: size of the videos; frames per second.
        options: other sampling settings that differ from their defaults.
        code: version of this package, and a hash of the code that scores.
    """

    suite: str
    prompts: str = "original"
    model: str = UNKNOWN
    weights: str = UNKNOWN
    sampler: str = UNKNOWN
    num_inference_steps: int | str = UNKNOWN
    guidance_scale: float | str = UNKNOWN
    seeds: str = UNKNOWN
    num_frames: int | str = UNKNOWN
    height: int | str = UNKNOWN
    width: int | str = UNKNOWN
    fps: float | str = UNKNOWN
    options: str = UNKNOWN
    code: str = UNKNOWN


REQUIRED = (*(field.name for field in fields(Protocol)), "scorer", "num_videos", "num_failures", "interval")
"""Keys of `Score.protocol` without which a score is not formatted."""


def check_protocol(score: Score) -> None:
    """Raise ValueError if a score has no complete protocol."""
    missing = [name for name in REQUIRED if name not in score.protocol]
    if missing:
        raise ValueError(f"the score {score.metric} has no protocol, it lacks {', '.join(missing)}")


def format_score(score: Score, unit: str = "", *, interval: bool = True) -> str:
    """Format a score with its interval and number of videos: "88.7 % [84.6, 91.8], N=300".

    Raises:
        ValueError: the score has no protocol.
    """
    check_protocol(score)
    text = format_value(score.value, unit)
    if interval and score.interval is not None and not math.isnan(score.value):
        low, high = (format_value(bound, unit).removesuffix(f" {unit}") for bound in score.interval)
        text += f" [{low}, {high}]"
    return f"{text}, N={score.protocol['num_videos']}"


def format_value(value: float, unit: str = "") -> str:
    """Format a value in its unit; fractions in percent if the unit is "%"."""
    if math.isnan(value):
        return "no value"
    value = 100 * value if unit == "%" else value
    digits = 1 if unit == "%" else 2 if abs(value) >= 10 else 4
    return f"{value:.{digits}f}" + (f" {unit}" if unit else "")


def format_protocol(protocol: Mapping[str, Any]) -> list[str]:
    """Return a line for each setting of a score's protocol."""
    return [f"{name}: {protocol[name]}" for name in protocol]


@cache
def code_version() -> str:
    """Return the version of the package and a hash of the sources that score videos."""
    package, digest = Path(__file__).parent.parent, hashlib.sha256()
    for folder in ("evaluation", "toybox"):
        for file in sorted((package / folder).rglob("*.py")):
            digest.update(file.relative_to(package).as_posix().encode() + b"\0" + file.read_bytes())
    return f"{__version__}+{digest.hexdigest()[:8]}"
