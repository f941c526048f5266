"""The definition of a suite, and the options from which it is built."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cogvideox.errors import UserError
from cogvideox.evaluation.scorer import Item, Scorer


@dataclass(frozen=True)
class SuiteOptions:
    """Options of a suite; each suite uses some of them and rejects the others.

    Attributes:
        num_prompts: number of prompts of each group; None: the suite's default, or all of them.
        videos_per_prompt: videos of each prompt, with different seeds; None: the suite's default.
        seed: seed of the first video, and of prompts that are sampled.
        prompts: file of the suite's prompts, in the format of its publisher.
        settings: settings of the scorers by name, such as paths of weights.
    """

    num_prompts: int | None = None
    videos_per_prompt: int | None = None
    seed: int = 100
    prompts: Path | None = None
    settings: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PublishedRow:
    """Published results of a model on metrics of a suite, such as a row of a table in the paper."""

    model: str
    values: Mapping[str, float]


@dataclass(frozen=True)
class Suite:
    """The videos to generate, and how they are scored.

    Attributes:
        items: the videos to generate.
        item_of: returns the item of a video from elsewhere, by its prompt, without id and sample; None if the suite
            does not score this prompt.
        prompt_variant: "original", or the name of a rewritten set of prompts.
        published: results of other models, for the report.
        source: where `published` is from, and what makes it comparable or not.
        prompt_settings: settings that choose among the suite's own prompts, and do not apply to folders of videos.
        reads_prompts: whether the file of prompts also matters for folders of videos.
        options: the `SuiteOptions` from which the suite was built, as JSON values.
    """

    name: str
    items: tuple[Item, ...]
    scorers: tuple[Scorer, ...]
    item_of: Callable[[str], Item | None]
    prompt_variant: str = "original"
    published: tuple[PublishedRow, ...] = ()
    source: str = ""
    prompt_settings: tuple[str, ...] = ()
    reads_prompts: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """A hash of all prompts, seeds and facts."""
        values = [
            (item.id, item.prompt, item.generation_prompt, item.group, item.sample, item.seed, dict(item.info))
            for item in self.items
        ]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]


def numbered(items: Sequence[Item], videos_per_prompt: int, seed: int) -> tuple[Item, ...]:
    """Return `videos_per_prompt` items of each item, with ids, samples and consecutive seeds."""
    digits = len(str(max(len(items) - 1, 0)))
    return tuple(
        Item(
            id=f"{index:0{digits}d}" + (f"-{sample}" if videos_per_prompt > 1 else ""),
            prompt=item.prompt,
            group=item.group,
            sample=sample,
            seed=seed + index * videos_per_prompt + sample,
            info=item.info,
            generation_prompt=item.generation_prompt,
        )
        for index, item in enumerate(items)
        for sample in range(videos_per_prompt)
    )


def choice(value: str, allowed: Sequence[str], name: str) -> str:
    """Return the value of a setting. Raises UserError if it is not allowed."""
    if value not in allowed:
        raise UserError(f"--set {name}={value}: choose from {', '.join(allowed)}")
    return value


def positive(options: SuiteOptions, name: str, default: int) -> int:
    """Return a setting that is a whole number above 0. Raises UserError if it is not."""
    text = options.settings.get(name, str(default))
    if not (text.isascii() and text.isdecimal()) or int(text) < 1:
        raise UserError(f"--set {name}={text} must be a whole number above 0")
    return int(text)


def check_settings(suite: str, options: SuiteOptions, known: Sequence[str]) -> None:
    """Raise UserError if `options.settings` has a name that the suite does not know."""
    for name in options.settings:
        if name not in known:
            allowed = f"its settings are {', '.join(known)}" if known else "it has none"
            raise UserError(f"the {suite} suite has no setting {name}: {allowed}")
