"""Captions and objects of frames by a model behind an endpoint, for variants of VBench's scene and multiple objects.

Axes: t frames, h w height and width in pixels.
"""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from cogvideox.errors import UserError
from cogvideox.evaluation.judge.endpoint import Judge, read_settings
from cogvideox.evaluation.models.interfaces import Captioner, ObjectDetector
from cogvideox.llm.chat import ChatRequest, Frame, Message
from cogvideox.video.jpeg import encode_jpeg

Frames = UInt8[np.ndarray, "t h w 3"]

LONGEST_SIDE = 512
CAPTION = "Describe the place that this frame of a video shows, and what is in it, in one plain sentence."
OBJECTS = (
    "Which objects does this frame of a video show? Name each kind once, in the singular, in lower case, with the "
    "usual English word, one per line, and write nothing else."
)


def captions(settings: Path, responses: Path | None) -> Captioner:
    """Return a captioner of frames."""
    ask = _asker(settings, responses, "vbench-caption", CAPTION)
    return lambda frames: [answer.lower() for answer in ask(frames)]


def objects(settings: Path, responses: Path | None) -> ObjectDetector:
    """Return a detector of objects."""
    ask = _asker(settings, responses, "vbench-objects", OBJECTS)
    return lambda frames: [parse_objects(answer) for answer in ask(frames)]


def parse_objects(answer: str) -> set[str]:
    """Return the names in a list with one object per line; list marks and articles are dropped."""
    lines = (re.sub(r"^(?:[-*•]|\d+[.)])?\s*(?:an?\s+)?", "", line.strip().lower()) for line in answer.splitlines())
    return {name for line in lines if (name := line.strip(" .,"))}


def _asker(settings: Path, responses: Path | None, prompt_id: str, question: str) -> Callable[[Frames], list[str]]:
    judge = Judge(read_settings(settings), responses)

    def ask(frames: Frames) -> list[str]:
        requests = [
            ChatRequest(
                (Message("user", (Frame(encode_jpeg(frame, LONGEST_SIDE)), question)),),
                prompt_id,
                sampling=judge.sampling(seed=0),
            )
            for frame in frames
        ]
        answers = judge.ask(requests)
        if error := next((answer.error for answer in answers if answer.error is not None), None):
            raise UserError(f"the model did not describe all frames: {error}")
        return [answer.text for answer in answers]

    return ask
