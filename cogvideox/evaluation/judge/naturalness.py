"""Naturalness of a video in five levels, rated by a model as in DEVIL, with other instructions.

The official ones and their judge (Gemini 1.5 Pro 001) are not available, so scores are a variant.
"""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cogvideox.errors import UserError
from cogvideox.evaluation.judge.endpoint import Judge, read_settings
from cogvideox.llm.chat import ChatRequest, Frame, Message
from cogvideox.records import Video
from cogvideox.video.jpeg import encode_jpeg

ID, VERSION = "naturalness", 1
LEVELS = {"almost": 1.0, "slightly": 0.75, "moderately": 0.5, "clearly": 0.25, "completely": 0.0}
"""Words of the levels, and their scores."""
NUM_FRAMES, LONGEST_SIDE = 16, 512
INSTRUCTIONS = (
    "These are frames of one video, in order. How natural is it, by the laws of physics and of living bodies? Ignore "
    "the artistic style. Answer with one of these levels, and nothing else: Almost Realistic (no visible errors); "
    "Slightly Unrealistic (brief or small errors); Moderately Unrealistic (visible errors for a while, or of medium "
    "size); Clearly Unrealistic (large or lasting errors); Completely Fantastical (not of this world)."
)


def parse_level(answer: str) -> float | None:
    """Return the score of the only level that an answer names; None if it names none or several.

    The official script takes the first level in the order of `LEVELS` that occurs anywhere, and fails without one.
    """
    named = {word for word in re.findall(r"[a-z]+", answer.lower()) if word in LEVELS}
    return LEVELS[named.pop()] if len(named) == 1 else None


def open_naturalness(settings: Path, responses: Path | None) -> Callable[[Video], float]:
    """Return a function that rates a video."""
    judge = Judge(read_settings(settings), responses)

    def rate(video: Video) -> float:
        indices = np.linspace(0, len(video.frames) - 1, min(NUM_FRAMES, len(video.frames))).round().astype(int)
        frames = [Frame(encode_jpeg(video.frames[index], LONGEST_SIDE), float(index / video.fps)) for index in indices]
        request = ChatRequest((Message("user", (*frames, INSTRUCTIONS)),), ID, VERSION, sampling=judge.sampling(seed=0))
        (answer,) = judge.ask([request])
        if (score := parse_level(answer.text)) is None:
            raise UserError(f"the judge named no level: {answer.error or answer.text[:100]!r}")
        return score

    return rate
