"""Plan a study: match the videos of the models by prompt, write blind copies, and fix the protocol."""

import hashlib
import json
import os
import secrets
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from cogvideox.atomic_io import atomic_folder, write_text
from cogvideox.config import check_minimum
from cogvideox.dataset.ingest.folder_layouts import list_folder
from cogvideox.errors import UserError
from cogvideox.evaluation.human.rubric import CRITERIA, OVERALL
from cogvideox.evaluation.human.study import blind_copies, training_items
from cogvideox.evaluation.human.study.protocol import KEY, SECRET, STUDY, VIDEOS, Item, Mode, Study, to_json

QUESTIONS = (*CRITERIA, OVERALL)
GOLD_QUESTIONS = ("sensory", "cover", OVERALL)
"""Questions about pairs whose answer is known if one of the videos is damaged."""


@dataclass(frozen=True)
class PlanSettings:
    """Settings of a study; see `protocol.Study`.

    Attributes:
        gold_fraction: number of gold items as a fraction of the prompts; at least one item unless it is 0.
        training: whether raters start with 12 explained items from the toy world.
        max_prompts: number of prompts, chosen at random; 0: all.
    """

    mode: Mode = "single"
    title: str = "Video study"
    questions: tuple[str, ...] = QUESTIONS
    gold_fraction: float = 0.06
    repeat_fraction: float = 0.1
    items_per_rater: int = 0
    num_raters: int = 8
    training: bool = True
    max_prompts: int = 0
    stop_rule: str = Study.stop_rule
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.gold_fraction <= 1:
            raise UserError(f"gold_fraction={self.gold_fraction} must be from 0 to 1")
        check_minimum(self, max_prompts=0)


def plan_study(models: Mapping[str, Path], folder: Path, settings: PlanSettings | None = None) -> Study:
    """Write a study folder and return its protocol.

    Args:
        models: folder of the videos of each model by name. The prompt of a video is in the text or JSON file beside it,
            or in a table. Prompts that not all models have are left out.

    Raises:
        UserError: too few models, no common prompt, unreadable videos, or the folder exists.
    """
    settings = settings or PlanSettings()
    if folder.exists():
        raise UserError(f"{folder} exists: choose another folder, because a protocol is never changed")
    if settings.mode == "pair" and len(models) < 2:
        raise UserError("a study of pairs needs two models or more: add NAME=FOLDER of another model, or --mode single")
    if settings.mode == "pair" and settings.gold_fraction and not set(GOLD_QUESTIONS) & set(settings.questions):
        raise UserError(
            f"gold items answer only the questions {', '.join(GOLD_QUESTIONS)}: add one of them, or pass --gold 0"
        )
    rng = np.random.default_rng(settings.seed)
    codes = dict(zip(models, (f"M{k + 1}" for k in rng.permutation(len(models)))))
    groups = _groups(models, settings, rng)
    with atomic_folder(folder) as temporary:
        (temporary / VIDEOS).mkdir()
        items, hashes = _write_items(groups, codes, temporary / VIDEOS, settings)
        key = {codes[name]: {"name": name, "folder": str(path)} for name, path in models.items()}
        key_text = json.dumps(dict(sorted(key.items())), indent=1, ensure_ascii=False) + "\n"
        write_text(temporary / KEY, key_text)
        (temporary / SECRET).touch(mode=0o600)
        (temporary / SECRET).write_bytes(secrets.token_bytes(32))
        study = Study(
            title=settings.title,
            mode=settings.mode,
            questions=settings.questions if settings.mode == "pair" else (),
            items=tuple(items),
            models=hashes,
            key_hash=hashlib.sha256((temporary / KEY).read_bytes()).hexdigest(),
            items_per_rater=settings.items_per_rater,
            repeat_fraction=settings.repeat_fraction,
            num_raters=settings.num_raters,
            stop_rule=settings.stop_rule,
            seed=settings.seed,
        )
        write_text(temporary / STUDY, to_json(study))
    return study


def _groups(
    models: Mapping[str, Path], settings: PlanSettings, rng: np.random.Generator
) -> list[tuple[str, dict[str, Path]]]:
    """Return prompts and the video of each model. The k-th videos of a prompt belong together."""
    by_model: dict[str, dict[tuple[str, int], Path]] = {}
    for name, path in models.items():
        counts: dict[str, int] = defaultdict(int)
        by_model[name] = {}
        for entry in sorted(list_folder(path).entries, key=lambda entry: str(entry.source)):
            if entry.caption and entry.start is None and entry.end is None:
                by_model[name][entry.caption, counts[entry.caption]] = entry.source
                counts[entry.caption] += 1
    common = [key for key in next(iter(by_model.values()), {}) if all(key in videos for videos in by_model.values())]
    if not common:
        raise UserError(
            f"no prompt has a video of every model ({', '.join(models)}): generate the same prompts with each"
        )
    if 0 < settings.max_prompts < len(common):
        common = [common[index] for index in sorted(rng.permutation(len(common))[: settings.max_prompts])]
    return [(key[0], {name: videos[key] for name, videos in by_model.items()}) for key in common]


def _write_items(
    groups: Sequence[tuple[str, dict[str, Path]]], codes: Mapping[str, str], folder: Path, settings: PlanSettings
) -> tuple[list[Item], dict[str, str]]:
    form = blind_copies.common_format([path for _, videos in groups for path in videos.values()])
    digests = {code: hashlib.sha256() for code in sorted(codes.values())}
    rng = np.random.default_rng([settings.seed, 1])
    num_gold = round(settings.gold_fraction * len(groups)) if settings.gold_fraction else 0
    gold_groups = set(rng.permutation(len(groups))[: max(num_gold, bool(settings.gold_fraction))].tolist())
    items = []
    for index, (prompt, videos) in enumerate(groups):
        for model, path in videos.items():
            digests[codes[model]].update(hashlib.sha256(path.read_bytes()).digest())
        clips = blind_copies.read_group(list(videos.values()), form)
        names = {codes[model]: _new_name() for model in videos}
        if index in gold_groups:
            clips.append(blind_copies.damage(clips[0], index))
            names["gold"] = _new_name()
        blind_copies.write_group(clips, form.fps, [folder / name for name in names.values()])
        damaged, original = names.pop("gold", None), next(iter(names.values()))
        if settings.mode == "single":
            items += [Item(_new_id(), prompt, (name,), (code,)) for code, name in names.items()]
            if damaged:
                scores: dict[str, float | str] = {"sensory": 0.5, "cover": 0.5}
                items.append(Item(_new_id(), prompt, (damaged,), kind="gold", answer=scores))
        else:
            pairs = combinations(sorted(names), 2)
            items += [Item(_new_id(), prompt, (names[a], names[b]), (a, b)) for a, b in pairs]
            if damaged:
                known = [name for name in GOLD_QUESTIONS if name in settings.questions]
                answer: dict[str, float | str] = dict.fromkeys(known, "left")
                items.append(Item(_new_id(), prompt, (original, damaged), kind="gold", answer=answer))
    if settings.training:
        items += _training(folder, settings)
    return items, {code: digest.hexdigest() for code, digest in digests.items()}


def _training(folder: Path, settings: PlanSettings) -> list[Item]:
    examples = (
        training_items.pair_items(settings.questions) if settings.mode == "pair" else training_items.single_items()
    )
    items = []
    for example in examples:
        names = tuple(_new_name() for _ in example.clips)
        paths = [folder / name for name in names]
        blind_copies.write_group(example.clips, training_items.TRAINING_FORMAT.fps, paths)
        answer, text = example.answer, example.explanation
        items.append(Item(_new_id(), example.prompt, names, kind="training", answer=answer, explanation=text))
    return items


def _new_id() -> str:
    return os.urandom(9).hex()


def _new_name() -> str:
    return f"{_new_id()}.mp4"
