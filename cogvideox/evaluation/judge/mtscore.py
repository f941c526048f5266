"""GPT4o-MTScore (Yuan et al. 2024, arXiv 2406.18522): a judge rates how much a video changes, from 1 to 5.

Answers without a score are failures; the official script drops them silently. The mean is over videos of each run, that
is, of each sample of the prompts, and then over runs.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cogvideox.errors import UserError
from cogvideox.evaluation.judge import rubric
from cogvideox.evaluation.judge.endpoint import Judge, identity, read_settings
from cogvideox.evaluation.judge.frames import judged_frames
from cogvideox.evaluation.judge.parsing import parse_score
from cogvideox.evaluation.scorer import Item, Measurement, Metric, Ratio, VideoFile
from cogvideox.llm.chat import ChatRequest, Frame, Message
from cogvideox.video.official_tools import encode_png


@dataclass(frozen=True)
class MeanOfRuns:
    """Mean of a value over the videos of each run, and then over runs."""

    value: str = "score"
    run: str = "run"

    def __call__(self, measurements: Sequence[Measurement]) -> float:
        runs: dict[int, list[float]] = {}
        for measurement in measurements:
            runs.setdefault(measurement[self.run], []).append(measurement[self.value])
        return statistics.fmean(map(statistics.fmean, runs.values())) if runs else float("nan")


@dataclass(frozen=True)
class MTScore:
    """Scorer of GPT4o-MTScore.

    Attributes:
        judge: file of the judge's settings (`endpoint`).
        repeats: number of times that the judge is asked about each video.
        responses: file of stored responses; set by the run.
    """

    judge: Path
    repeats: int = 1
    responses: Path | None = None
    groups: tuple[str, ...] = ()

    @property
    def is_official(self) -> bool:
        """Whether the judge is that of published scores."""
        settings = read_settings(self.judge)
        endpoint = settings.model.endpoint
        return endpoint is not None and endpoint.model == rubric.OFFICIAL_MODEL and settings.temperature == 1.0

    @property
    def name(self) -> str:
        """Name, which is different if the judge is not that of published scores."""
        return "gpt4o_mtscore" if self.is_official else "mtscore-variant"

    @property
    def uses_endpoint(self) -> bool:
        """Whether calls may cost money."""
        return True

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The mean score; with repeats, also the variation of the answers."""
        note = "" if self.is_official else "; variant with another judge, not comparable"
        metrics = [Metric(f"judge/{self.name}", MeanOfRuns(), f"amount of change, 1 to 5{note}", per_video="score")]
        if self.repeats > 1:  # otherwise, a video whose answer has no score is a failure
            without_score = "answers without a score, about videos that have a score; the others are failures"
            metrics.append(
                Metric("judge/answers_without_score", Ratio("unreadable", "asked"), without_score, "%", False)
            )
            meaning = "standard deviation of the scores of one video, mean over videos"
            metrics.append(Metric("judge/repeat_deviation", Ratio("deviation"), meaning, "", False))
        return tuple(metrics)

    def settings(self) -> dict[str, Any]:
        """See `Scorer`."""
        judge_settings = identity(self.judge)
        return {"rubric": f"{rubric.ID} {rubric.VERSION}", "repeats": self.repeats, **judge_settings, "version": 1}

    def open(self, worker: int) -> Callable[[VideoFile, Item], Measurement]:
        """Connect to the judge."""
        judge = Judge(read_settings(self.judge), self.responses)

        def measure(file: VideoFile, item: Item) -> Measurement:
            message = build_message(file, item.info.get("videoid", item.id))
            requests = [
                ChatRequest((message,), rubric.ID, rubric.VERSION, sampling=judge.sampling(seed=repeat))
                for repeat in range(self.repeats)
            ]
            answers = judge.ask(requests)
            scores = [score for answer in answers if (score := parse_score(answer.text)) is not None]
            if not scores:
                reason = answers[0].error or f"the answer has no score: {answers[0].text[-100:]!r}"
                raise UserError(f"the judge gave no score: {reason}")
            return {
                "score": statistics.fmean(scores),
                "scores": scores,
                "deviation": statistics.pstdev(scores),
                "asked": len(answers),
                "unreadable": len(answers) - len(scores),
                "run": item.sample,
            }

        return measure


def build_message(file: VideoFile, videoid: str) -> Message:
    """Return the message of the official script: the instructions, and each frame as PNG after its file name."""
    parts: list[str | Frame] = [rubric.RUBRIC]
    for index, frame in judged_frames(file).items():
        parts += [f"{videoid}_frame{index}.png", Frame(encode_png(frame))]
    return Message("user", tuple(parts))
