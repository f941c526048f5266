"""Training items: videos of the built-in toy world with known flaws, and an explanation of each answer."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8

from cogvideox.evaluation.human.study.blind_copies import VideoFormat, damage

Frames = UInt8[np.ndarray, "t h w 3"]
_SECONDS, _FPS, _HEIGHT = 2.0, 12.0, 240
_COLORS = {"red": "blue", "blue": "green", "green": "red"}
_SHAPES = ("ball", "cube", "cone")


@dataclass(frozen=True)
class TrainingItem:
    """A training item; clips and answer as in `protocol.Item`."""

    prompt: str
    clips: tuple[Frames, ...]
    answer: dict[str, float | str]
    explanation: str


def single_items() -> list[TrainingItem]:
    """Return 12 videos with known scores."""
    items = []
    for index, (prompt, right, wrong) in enumerate(_scenes(4)):
        damaged = damage(right, index)
        frozen = np.repeat(right[:1], len(right), axis=0)
        cases: list[tuple[Frames, dict[str, float | str], str]] = [
            (
                right,
                {"instruction": 1.0},
                "Everything in the prompt is there and right, so instruction following is 1.",
            ),
            (
                wrong,
                {"instruction": 0.0, "total": 2.0},
                "The color is wrong, so instruction following is 0 and the total at most 2, however good the picture.",
            ),
            (
                damaged,
                {"sensory": 0.0, "physics": 0.0, "cover": 0.0},
                "The picture is coarse and frames are out of order, so sensory quality, physics and cover are 0.",
            )
            if index % 2
            else (
                frozen,
                {"instruction": 0.0, "total": 2.0},
                "The prompt asks for motion and nothing moves, so instruction following is 0, and the total at most 2.",
            ),
        ]
        items += [TrainingItem(prompt, (clip,), answer, text) for clip, answer, text in cases]
    return items


def pair_items(questions: tuple[str, ...]) -> list[TrainingItem]:
    """Return 12 pairs with known answers to some of the questions."""
    items = []
    for index, (prompt, right, wrong) in enumerate(_scenes(4)):
        damaged = damage(right, index)
        cases: list[tuple[tuple[Frames, Frames], dict[str, str], str]] = [
            ((right, wrong), {"instruction": "left", "overall": "left"}, "The color is wrong in one of the videos."),
            (
                (right, damaged),
                {"sensory": "left", "cover": "left", "overall": "left"},
                "One of the videos is coarse, and its frames are out of order.",
            ),
            ((right, right), dict.fromkeys(questions, "same"), "The videos are identical: the answer is 'same'.")
            if index % 2
            else (
                (wrong, damage(wrong, index)),
                {"sensory": "left", "instruction": "both_bad"},
                "Neither video follows the prompt: the answer to this question is 'both bad'.",
            ),
        ]
        for clips, answer, text in cases:
            known: dict[str, float | str] = {name: choice for name, choice in answer.items() if name in questions}
            items.append(TrainingItem(prompt, clips, known, text))
    return items


def _scenes(number: int) -> list[tuple[str, Frames, Frames]]:
    """Return prompts, each with a video that is right and one whose color is wrong."""
    from cogvideox.toybox.captions.caption import caption_scene
    from cogvideox.toybox.render.renderer import render_scene
    from cogvideox.toybox.scenes.sampler import sample_scene

    num_frames = round(_SECONDS * _FPS)
    size: dict[str, Any] = {"num_frames": num_frames, "height": _HEIGHT, "width": _HEIGHT * 3 // 2, "fps": _FPS}
    scenes = []
    for index in range(number):
        color = list(_COLORS)[index % len(_COLORS)]
        facts = {"shape": _SHAPES[index % 3], "size": "large", "motion": ("left", "right")[index % 2]}
        facts["background"] = "white"
        right, wrong = (
            sample_scene(index, seconds=(num_frames - 1) / _FPS, color=name, **facts)
            for name in (color, _COLORS[color])
        )
        prompt = caption_scene(right, "plain", index, complete=True)
        scenes.append((prompt, render_scene(right, **size).numpy(), render_scene(wrong, **size).numpy()))
    return scenes


TRAINING_FORMAT = VideoFormat(_HEIGHT, _HEIGHT * 3 // 2, _FPS)
