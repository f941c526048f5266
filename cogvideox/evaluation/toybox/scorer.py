"""Scores of toybox videos: which facts of the prompt the pixels show, and whether they stay the same over time.

Axes: `t` frames, `h w` height and width in pixels.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from cogvideox.errors import UserError
from cogvideox.evaluation.scorer import Item, Measurement, Metric, Ratio, VideoFile
from cogvideox.records import Score
from cogvideox.toybox.judge.full import read_scenes
from cogvideox.toybox.judge.judge import fact_accuracies, judge_clip, judge_clips
from cogvideox.toybox.scenes.grammar import FACTS

MIN_SIDE = 16
"""Minimum height and width in pixels at which a toy can be recognized."""
MAX_FRAMES = 64
"""Frames that are judged, from the start of the video."""
FACT_METRICS = tuple(
    Metric(
        f"toybox/{name}",
        Ratio(f"{name}", f"{name} facts"),
        f"facts about {name} that the video shows" if name != "count" else "videos with the right number of toys",
        "%",
        per_video=name,
    )
    for name in FACTS["full"]
)


@dataclass(frozen=True)
class ToyboxFacts:
    """Scorer of the facts that a prompt names (`toybox.judge`), and of temporal consistency.

    `Item.info` has the `facts` and the `grammar` by which they are judged.
    """

    name: str = "toybox"
    groups: tuple[str, ...] = ()
    metrics: tuple[Metric, ...] = (
        Metric("toybox/all", Ratio("all"), "videos with all facts of the prompt right", "%", per_video="correct"),
        *FACT_METRICS,
        Metric(
            "toybox/consistency",
            Ratio("consistency"),
            "frames with the background, count, colors and shapes of most frames",
            "%",
            per_video="consistency",
        ),
    )

    def settings(self) -> dict[str, Any]:
        """See `Scorer`."""
        return {"judge": "cogvideox.toybox.judge", "version": 1, "max_frames": MAX_FRAMES}

    def open(self, worker: int) -> Callable[[VideoFile, Item], Measurement]:
        """See `Scorer`."""
        return measure


def measure(file: VideoFile, item: Item) -> Measurement:
    """Measure one video.

    Returns:
        For each fact `name`, the number of facts (`"name facts"`) and of correct ones (`name`), both over all toys;
        `all`, whether all are correct; `correct`, their fraction; `consistency`.

    Raises:
        UserError: the video cannot be read or is too small, or the prompt names no fact.
    """
    frames = torch.from_numpy(file.video.frames[:MAX_FRAMES])
    if min(frames.shape[1:3]) < MIN_SIDE:
        raise UserError(
            f"{file.path} is {frames.shape[1]}x{frames.shape[2]}: the judge needs a height and width of at least "
            f"{MIN_SIDE} pixels"
        )
    verdict = judge_clip(frames, item.info["facts"], item.info.get("grammar", "full"))
    if not verdict:
        raise UserError(f"{item.prompt!r} states no fact of the toy world, so there is nothing to judge")
    facts: dict[str, list[bool]] = {}
    for name, correct in verdict.items():
        facts.setdefault(name.split()[0], []).append(correct)
    measurement: dict[str, Any] = {name: sum(correct) for name, correct in facts.items()}
    measurement |= {f"{name} facts": len(correct) for name, correct in facts.items()}
    measurement["all"] = int(all(verdict.values()))
    measurement["correct"] = sum(verdict.values()) / len(verdict)
    if len(frames) > 1:
        measurement["consistency"] = temporal_consistency(frames)
    return measurement


def temporal_consistency(frames: UInt8[Tensor, "t h w 3"]) -> float:
    """Return how well the frames agree, each read by itself (`judge.full`).

    Background, number of toys, their colors and their shapes are read in every frame. The result is the fraction of
    these readings that equal the most frequent one of the video; unreadable frames agree with none.
    """
    readings: list[tuple[Any, ...]] = []
    for scene in read_scenes(frames[:, None]):
        colors, shapes = (_sorted([toy[name] for toy in scene.toys]) for name in ("color", "shape"))
        readings.append((scene.facts["background"], scene.facts["count"], colors, shapes))
    agreeing = 0
    for values in zip(*readings, strict=True):
        known = Counter(value for value in values if value is not None)
        agreeing += known.most_common(1)[0][1] if known else 0
    return agreeing / (len(readings) * len(readings[0]))


def score_samples(
    videos: UInt8[Tensor, "b t h w 3"], expected: Sequence[Any], grammar: str = "core"
) -> dict[str, Score]:
    """Score videos in memory, such as the samples of a training run.

    Args:
        expected: see `judge.judge_clips`.

    Returns:
        Accuracies as `judge.fact_accuracies` names them; for videos, also `consistency`.
    """
    scores = fact_accuracies(judge_clips(videos, expected, grammar))
    if scores and videos.shape[1] > 1:
        consistency = [temporal_consistency(frames) for frames in videos]
        scores["consistency"] = Score(
            "toybox/consistency",
            sum(consistency) / len(consistency),
            protocol={"judge": "cogvideox.toybox.judge", "num_clips": len(videos)},
        )
    return scores


def _sorted(words: Sequence[str | None]) -> tuple[str, ...] | None:
    known = [word for word in words if word is not None]
    return tuple(sorted(known)) if known and len(known) == len(words) else None
