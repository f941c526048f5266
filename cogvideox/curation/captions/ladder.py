"""One clip through the rungs of a ladder: back-ends, checks, repairs, and the columns that are kept."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from cogvideox import config
from cogvideox.curation.captions.back_ends.registry import BACK_ENDS
from cogvideox.curation.captions.base import CaptionInput, Draft, Rejected, TimedCaption
from cogvideox.curation.captions.config import RUNGS, Ladder
from cogvideox.curation.captions.facts import ClipFacts, Measurer
from cogvideox.curation.captions.quality.checks import Problem, check_caption, remove_opener
from cogvideox.curation.results import Result
from cogvideox.curation.signals.base import SampledFrames, Sampling
from cogvideox.curation.stage import Column, Row, Value
from cogvideox.errors import UserError
from cogvideox.llm.cache import ResponseCache
from cogvideox.llm.client import Client, Stopped
from cogvideox.llm.limits import Account

FACTS = "facts"
SHORT_WORDS = 40


@dataclass(frozen=True)
class RungStage:
    """A rung as a stage of curation, so that its results are stored and reused. See `stage.Stage`.

    Attributes:
        identity: of the back-end, and of everything else that the captions depend on.
    """

    rung: str
    identity: str
    reads: tuple[str, ...] = ()
    version: int = 1

    @property
    def name(self) -> str:
        return f"caption_{self.rung}"

    @property
    def columns(self) -> tuple[Column, ...]:
        return rung_columns(self.rung)

    def weights_hash(self) -> str:
        return ""


def rung_columns(rung: str) -> tuple[Column, ...]:
    """Return the columns of a rung."""
    name = f"caption.{rung}"
    if rung == FACTS:
        return (Column("caption.facts", "str", "Measured facts of the clip, in JSON."),)
    text = "Captions of frames with their times, in JSON." if rung == "frames" else f"The {rung} caption."
    return (
        Column(name, "str", text),
        Column(f"{name}_problems", "str", "What the checks found wrong, a line each; missing if nothing."),
        Column(f"{name}_attempts", "int", "Answers that were written, including repairs.", "", 0.0),
        Column(f"{name}_tokens", "int", "Tokens of prompts and answers of models.", "", 0.0),
        Column(f"{name}_seconds", "float", "Time that models took.", "s", 0.0),
        Column(f"{name}_cost", "float", "Price of the calls.", "", 0.0),
    )


@dataclass(frozen=True)
class Checked:
    """A caption with what is wrong with it, and what it took."""

    draft: Draft
    problems: tuple[Problem, ...]
    attempts: int
    tokens: int
    seconds: float
    cost: float


@dataclass
class OpenLadder:
    """A ladder with its models."""

    ladder: Ladder
    measurer: Measurer
    clients: Mapping[str, Client]
    back_ends: Mapping[str, Any]
    count_tokens: Callable[[str], int]
    stages: dict[str, RungStage] = field(init=False)

    def __post_init__(self) -> None:
        checks, repairs = config.to_dict(self.ladder.checks), self.ladder.repairs
        self.stages = {FACTS: RungStage(FACTS, self.measurer.identity)}
        for name, rung in self.ladder.rungs.items():
            parts = [self.back_ends[name].identity, rung.max_words, checks, repairs]
            reads: tuple[str, ...] = ("caption.facts",)
            if name == "frames":
                parts.append(self.ladder.interval)
            if name == "summary":
                reads += tuple(f"caption.{source}" for source in ("short", "frames") if source in self.ladder.rungs)
            self.stages[name] = RungStage(name, json.dumps(parts, sort_keys=True), reads)

    @property
    def concurrency(self) -> int:
        """Clips that are captioned at once."""
        return max((client.model.concurrency for client in self.clients.values()), default=1)

    def samplings(self, rungs: Sequence[str]) -> list[Sampling]:
        """Return the frames that rungs (or `FACTS`) need."""
        needed = list(self.measurer.samplings) if FACTS in rungs else []
        for name in rungs:
            needed += getattr(self.back_ends.get(name), "samplings", ())
        return list(dict.fromkeys(needed))

    def close(self) -> None:
        """Close all models."""
        for client in self.clients.values():
            client.model.close()

    def caption(
        self,
        row: Row,
        known: Mapping[str, Mapping[str, Value]],
        decode: Callable[[Row, Sequence[Sampling]], list[SampledFrames]],
        on_result: Callable[[Result], None],
    ) -> None:
        """Run the rungs that are not known yet on a clip, and report each result at once.

        Args:
            known: columns of the rungs (and `FACTS`) that have results.
            decode: returns the frames of a clip.

        Raises:
            BudgetExhausted, Stopped, UserError: of the models; results before are reported.
        """
        todo = [name for name in (FACTS, *self.ladder.rungs) if name not in known]
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
            facts = self.measurer.clip(row, frames)
            values["caption.facts"] = json.dumps(config.to_dict(facts), ensure_ascii=False)
            on_result(Result("caption_facts", row["id"], {"caption.facts": values["caption.facts"]}))
        if not values["caption.facts"]:  # an earlier run could not read the clip
            for name in todo:
                on_result(Result(f"caption_{name}", row["id"], {}, "the clip could not be read"))
            return
        facts = config.from_dict(ClipFacts, json.loads(values["caption.facts"]))
        times = caption_times(row["end"] - row["start"], self.ladder.interval)
        clip = CaptionInput(row["id"], frames, facts, times, bool(row.get("is_image")))
        for name in todo:
            if name == FACTS:
                continue
            try:
                columns, error, attempts = self._run(name, clip, values)
            except (UserError, Stopped):
                raise
            except Exception as problem:  # a library fails on a clip; the others go on
                columns, error, attempts = {}, f"{type(problem).__name__}: {problem}"[:500], 1
            values |= columns
            on_result(Result(f"caption_{name}", row["id"], columns, error, max(1, attempts)))

    def _run(
        self, name: str, clip: CaptionInput, values: Mapping[str, Value]
    ) -> tuple[dict[str, Value], str | None, int]:
        """Return the columns of a rung, or the reason why there are none, and the number of attempts."""
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
    ) -> Checked:
        """Write a caption, and again with the reason while it fails the checks; return the best attempt."""
        limit = SHORT_WORDS if name == "short" else self.ladder.checks.max_words
        max_words = min(self.ladder.rungs[name].max_words, limit)
        rejected: list[Rejected] = []
        best: tuple[Draft, tuple[Problem, ...]] | None = None
        drafts: list[Draft] = []
        for _ in range(1 + (self.ladder.repairs if back_end.repairs else 0)):
            draft = write(rejected)
            drafts.append(draft)
            draft = replace(draft, text=remove_opener(draft.text))
            problems = tuple(
                check_caption(
                    draft.text,
                    facts,
                    self.ladder.checks,
                    count_tokens=self.count_tokens,
                    max_words=max_words,
                    finish_reason=draft.finish_reason,
                    error=draft.error,
                )
            )
            if best is None or len(problems) < len(best[1]) or best[0].error:
                best = draft, problems
            if not problems or draft.error:
                break
            rejected.append(Rejected(draft.text, "; ".join(problem.reason for problem in problems)))
        assert best is not None
        return Checked(
            *best,
            attempts=len(drafts),
            tokens=sum(draft.prompt_tokens + draft.completion_tokens for draft in drafts),
            seconds=sum(draft.seconds for draft in drafts),
            cost=sum(draft.cost for draft in drafts),
        )


def open_ladder(ladder: Ladder, cache: ResponseCache) -> OpenLadder:
    """Open the models of a ladder.

    Raises:
        UserError: a kind of back-end does not exist, or a model cannot be opened.
    """
    for name, rung in ladder.rungs.items():
        if rung.kind not in BACK_ENDS[name]:
            raise UserError(f"{name}.kind={rung.kind} does not exist; available: {', '.join(BACK_ENDS[name])}")
    count_tokens, measurer = ladder.checks.counter(), Measurer(ladder.measure)
    used = {rung.model for rung in ladder.rungs.values() if rung.model}
    account = Account(ladder.budget, cache.spent())
    clients: dict[str, Client] = {}
    try:
        for name in sorted(used):
            clients[name] = ladder.models[name].client(cache, account)
    except BaseException:
        for client in clients.values():
            client.model.close()
        raise
    back_ends = {
        name: BACK_ENDS[name][rung.kind](rung, clients.get(rung.model), measurer) for name, rung in ladder.rungs.items()
    }
    return OpenLadder(ladder, measurer, clients, back_ends, count_tokens)


def caption_times(seconds: float, interval: float) -> tuple[float, ...]:
    """Return the times of the frames to caption: multiples of the interval that are in the clip; 0 for an image."""
    return tuple(index * interval for index in range(max(1, -(-int(seconds * 1000) // int(interval * 1000)))))


def frame_facts(facts: ClipFacts) -> ClipFacts:
    """Return the facts of a clip that captions of its single frames are checked against."""
    return replace(facts, counts=None, camera=None, motion=None)


ALL_COLUMNS = tuple(column for rung in (FACTS, *RUNGS) for column in rung_columns(rung))
"""Columns of all rungs."""
