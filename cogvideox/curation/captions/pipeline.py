"""Captioning pipeline for one clip: run the stages, check captions, retry failed ones, and report result columns."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from cogvideox import config
from cogvideox.curation.captions.back_ends.registry import BACK_ENDS
from cogvideox.curation.captions.base import CaptionInput, Draft, Rejected, TimedCaption
from cogvideox.curation.captions.config import CaptionPipelineConfig
from cogvideox.curation.captions.facts import ClipFacts, Measurer
from cogvideox.curation.captions.frame_times import caption_times
from cogvideox.curation.captions.quality.checks import Problem, check_caption, remove_opener
from cogvideox.curation.captions.stages import FACTS, CaptionStage
from cogvideox.curation.results import Result
from cogvideox.curation.signals.base import SampledFrames, Sampling
from cogvideox.curation.stage import Row, Value
from cogvideox.errors import UserError
from cogvideox.llm.cache import ResponseCache
from cogvideox.llm.client import Client, Stopped
from cogvideox.llm.limits import Account


@dataclass(frozen=True)
class CheckedCaption:
    """A caption, its problems, and the total cost of all attempts."""

    draft: Draft
    problems: tuple[Problem, ...]
    attempts: int
    tokens: int
    seconds: float
    cost: float


@dataclass
class CaptionPipeline:
    """The captioning pipeline with its opened models.

    Attributes:
        measurer: measures the facts of clips.
        clients: clients of the opened models, by name.
        back_ends: opened back-ends, by stage.
        count_tokens: see `CheckConfig.counter`.
        stages: curation stages with identities and columns, by stage name (including `FACTS`).
    """

    config: CaptionPipelineConfig
    measurer: Measurer
    clients: Mapping[str, Client]
    back_ends: Mapping[str, Any]
    count_tokens: Callable[[str], int]
    stages: dict[str, CaptionStage] = field(init=False)

    def __post_init__(self) -> None:
        checks, repairs = config.to_dict(self.config.checks), self.config.repairs
        self.stages = {FACTS: CaptionStage(FACTS, self.measurer.identity)}
        for name in self.config.stages:
            parts = [self.back_ends[name].identity, self.config.max_words(name), checks, repairs]
            reads: tuple[str, ...] = ("caption.facts",)
            if name == "frames":
                parts.append(self.config.interval)
            if name == "summary":
                reads += tuple(f"caption.{source}" for source in ("short", "frames") if source in self.config.stages)
            self.stages[name] = CaptionStage(name, json.dumps(parts, sort_keys=True), reads)

    @property
    def concurrency(self) -> int:
        """Number of clips captioned concurrently."""
        models = [client.model.concurrency for client in self.clients.values()]
        return max([*models, *(getattr(back_end, "concurrency", 1) for back_end in self.back_ends.values())], default=1)

    def samplings(self, stages: Sequence[str]) -> list[Sampling]:
        """Return the frame samplings that the given stages require."""
        needed = list(self.measurer.samplings) if FACTS in stages else []
        for name in stages:
            needed += getattr(self.back_ends.get(name), "samplings", ())
        return list(dict.fromkeys(needed))

    def close(self) -> None:
        """Close all models and stop worker processes."""
        for client in self.clients.values():
            client.model.close()
        for back_end in self.back_ends.values():
            if hasattr(back_end, "close"):
                back_end.close()

    def caption(
        self,
        row: Row,
        known: Mapping[str, Mapping[str, Value]],
        decode: Callable[[Row, Sequence[Sampling]], list[SampledFrames]],
        on_result: Callable[[Result], None],
    ) -> None:
        """Run the stages without stored results on a clip, and report each result immediately.

        Args:
            row: columns of the clip.
            known: stored result columns by stage (including `FACTS`).
            decode: function that decodes the frames of a clip.
            on_result: callback for each result.

        Raises:
            BudgetExhausted, Stopped, UserError: raised by a model; earlier results have been reported.
        """
        todo = [name for name in (FACTS, *self.config.stages) if name not in known]
        if "summary" in known and {"short", "frames"} & {*todo}:  # the stored summary was written without them
            todo = [name for name in (FACTS, *self.config.stages) if name in todo or name == "summary"]
        values: dict[str, Value] = {key: value for columns in known.values() for key, value in columns.items()}
        samplings = self.samplings(todo)
        try:
            decoded = decode(row, samplings) if samplings else []
        except UserError as error:
            for name in todo:
                on_result(Result(f"caption_{name}", row["id"], {}, str(error)))
            return
        frames = dict(zip(samplings, decoded))
        if FACTS in todo:
            try:
                facts = self.measurer.clip(row, frames)
            except UserError:
                raise
            except Exception as error:  # a library error on one clip must not stop the run
                for name in todo:
                    on_result(Result(f"caption_{name}", row["id"], {}, f"{type(error).__name__}: {error}"[:500]))
                return
            values["caption.facts"] = json.dumps(config.to_dict(facts), ensure_ascii=False)
            on_result(Result("caption_facts", row["id"], {"caption.facts": values["caption.facts"]}))
        if not values["caption.facts"]:  # the clip was unreadable in an earlier run
            for name in todo:
                on_result(Result(f"caption_{name}", row["id"], {}, "the clip could not be read"))
            return
        facts = config.from_dict(ClipFacts, json.loads(values["caption.facts"]))
        times = caption_times(row["end"] - row["start"], self.config.interval)
        clip = CaptionInput(row["id"], frames, facts, times, bool(row.get("is_image")))
        for name in todo:
            if name == FACTS:
                continue
            try:
                columns, error, attempts = self._run(name, clip, values)
            except (UserError, Stopped):
                raise
            except Exception as failure:  # a library error on one clip must not stop the run
                columns, error, attempts = {}, f"{type(failure).__name__}: {failure}"[:500], 1
            values |= columns
            on_result(Result(f"caption_{name}", row["id"], columns, error, max(1, attempts)))

    def _run(
        self, name: str, clip: CaptionInput, values: Mapping[str, Value]
    ) -> tuple[dict[str, Value], str | None, int]:
        """Return the result columns of a stage, the error if there are none, and the number of attempts."""
        back_end = self.back_ends[name]
        text: str | None
        if name == "frames":
            parts = []
            for time in clip.times:
                write = partial(back_end.caption, clip, time)
                parts.append(self._check(name, frame_facts(clip.facts), back_end, write))
            usable = [
                {"time": time, "text": part.draft.text} for time, part in zip(clip.times, parts) if not part.problems
            ]
            text = json.dumps(usable, ensure_ascii=False)
            problems = [f"{problem} ({time:g} s)" for time, part in zip(clip.times, parts) for problem in part.problems]
        else:
            if name == "summary":
                short = None if values.get("caption.short_problems") else values.get("caption.short")
                frames = [TimedCaption(**frame) for frame in json.loads(values.get("caption.frames") or "[]")]
                if not short and not frames:
                    return {}, "there is no usable caption to merge", 0
                write = partial(back_end.summarize, clip, short, frames)
            else:
                write = partial(back_end.caption, clip)
            parts = [self._check(name, clip.facts, back_end, write)]
            text, problems = parts[0].draft.text, [str(problem) for problem in parts[0].problems]
        attempts = sum(part.attempts for part in parts)
        if all(part.draft.error for part in parts):
            return {}, problems[0], attempts
        column = f"caption.{name}"
        return (
            {
                column: text,
                f"{column}_problems": "\n".join(problems) or None,
                f"{column}_attempts": attempts,
                f"{column}_tokens": sum(part.tokens for part in parts),
                f"{column}_seconds": sum(part.seconds for part in parts),
                f"{column}_cost": sum(part.cost for part in parts),
            },
            None,
            attempts,
        )

    def _check(
        self, name: str, facts: ClipFacts, back_end: Any, write: Callable[[Sequence[Rejected]], Draft]
    ) -> CheckedCaption:
        """Write a caption, retry while the checks fail, and return the attempt with the fewest problems."""
        rejected: list[Rejected] = []
        best: tuple[Draft, tuple[Problem, ...]] | None = None
        drafts: list[Draft] = []
        for _ in range(1 + (self.config.repairs if back_end.can_retry else 0)):
            draft = write(rejected)
            drafts.append(draft)
            draft = replace(draft, text=remove_opener(draft.text))
            problems = tuple(
                check_caption(
                    draft.text,
                    facts,
                    self.config.checks,
                    count_tokens=self.count_tokens,
                    max_words=self.config.max_words(name),
                    finish_reason=draft.finish_reason,
                    error=draft.error,
                )
            )
            if best is None or (draft.error is None and len(problems) < len(best[1])):
                best = draft, problems
            if not problems or draft.error:
                break
            rejected.append(Rejected(draft.text, "; ".join(problem.reason for problem in problems)))
        assert best is not None
        return CheckedCaption(
            *best,
            attempts=len(drafts),
            tokens=sum(draft.prompt_tokens + draft.completion_tokens for draft in drafts),
            seconds=sum(draft.seconds for draft in drafts),
            cost=sum(draft.cost for draft in drafts),
        )


def open_pipeline(pipeline_config: CaptionPipelineConfig, cache: ResponseCache) -> CaptionPipeline:
    """Open the models of a captioning pipeline.

    Raises:
        UserError: a back-end does not exist, or a model cannot be opened.
    """
    for name, stage in pipeline_config.stages.items():
        if stage.kind not in BACK_ENDS[name]:
            raise UserError(f"{name}.kind={stage.kind} does not exist; available: {', '.join(BACK_ENDS[name])}")
    count_tokens, measurer = pipeline_config.checks.counter(), Measurer(pipeline_config.measure)
    used = {stage.model for stage in pipeline_config.stages.values() if stage.model}
    account = Account(pipeline_config.budget, cache.spent())
    clients: dict[str, Client] = {}
    try:
        for name in sorted(used):
            clients[name] = pipeline_config.models[name].client(cache, account)
        if pipeline_config.budget.cost is not None and not any(client.model.cost(1, 1) for client in clients.values()):
            raise UserError("budget.cost has no effect: set price_prompt and price_completion of a model, or remove it")
        back_ends = {
            name: BACK_ENDS[name][stage.kind](
                replace(stage, max_words=pipeline_config.max_words(name)), clients.get(stage.model), measurer
            )
            for name, stage in pipeline_config.stages.items()
        }
    except BaseException:
        for client in clients.values():
            client.model.close()
        raise
    return CaptionPipeline(pipeline_config, measurer, clients, back_ends, count_tokens)


def frame_facts(facts: ClipFacts) -> ClipFacts:
    """Return the clip facts that also apply to a single frame."""
    return replace(facts, counts=None, camera=None, motion=None)
