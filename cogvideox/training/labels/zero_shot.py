"""Zero-shot labels from a vision-language model that was not trained for them: an endpoint or a local model.

One request per clip contains its frames and asks for a number from 0 to 100 per label, as JSON. Malformed answers are
counted as failures and yield no probabilities: a failed request does not mean that the clip has no defects.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from cogvideox.curation.labels.definitions import DEFINITIONS_VERSION, LABELS
from cogvideox.curation.pipeline import sample_frames
from cogvideox.curation.signals.base import Sampling
from cogvideox.errors import UserError
from cogvideox.llm.chat import Answer, ChatRequest, Frame, Message
from cogvideox.llm.chat import Sampling as TokenSampling
from cogvideox.llm.client import Client, ask_all
from cogvideox.video.jpeg import encode_jpeg

THRESHOLD = 0.5
_BATCH = 64  # maximum number of requests in memory
_INSTRUCTIONS = (
    "The pictures are frames of one video, in order. Judge which defects it has:\n{definitions}\n"
    "Answer with a JSON object that gives each name a whole number from 0 (certainly not) to 100 (certainly)."
)


@dataclass(frozen=True)
class ZeroShotSettings:
    """Settings of a request.

    Attributes:
        num_frames: number of evenly spaced frames per clip.
        longest_side: longest side of these frames, in pixels.
        max_tokens: maximum length of the answer in tokens.
    """

    num_frames: int = 8
    longest_side: int = 512
    max_tokens: int = 128


@dataclass(frozen=True)
class ZeroShot:
    """Zero-shot predictions of a model.

    Attributes:
        probabilities: probability per label and row; NaN where there is no prediction.
        failures: number of rows without a prediction, by reason.
    """

    probabilities: dict[str, Float64[np.ndarray, " n"]]
    failures: dict[str, int]


def ask_labels(client: Client, rows: Sequence[Mapping[str, Any]], settings: ZeroShotSettings | None = None) -> ZeroShot:
    """Ask a model for the labels of clips. Answers are cached by clip, frames, model and prompt.

    Args:
        rows: clips, with `id`, `path`, `start`, `end` and `is_image`.

    Raises:
        UserError: the budget is exhausted, or no request can succeed. Answers received so far are cached.
    """
    settings = settings or ZeroShotSettings()
    probabilities = {name: np.full(len(rows), np.nan) for name in LABELS}
    failures: dict[str, int] = {}
    for first in range(0, len(rows), _BATCH):
        numbers, requests = [], []
        for number in range(first, min(first + _BATCH, len(rows))):
            try:
                requests.append(build_request(rows[number], settings))
                numbers.append(number)
            except UserError:
                failures["the clip cannot be read"] = failures.get("the clip cannot be read", 0) + 1
        for number, answer in zip(numbers, ask_all(client, requests), strict=True):
            values = parse_answer(answer)
            if isinstance(values, str):
                failures[values] = failures.get(values, 0) + 1
                continue
            for name, value in values.items():
                probabilities[name][number] = value
    return ZeroShot(probabilities, failures)


def build_request(row: Mapping[str, Any], settings: ZeroShotSettings) -> ChatRequest:
    """Return the request for a clip. Raises UserError if the clip cannot be read."""
    sampling = Sampling(num_frames=settings.num_frames, longest_side=settings.longest_side)
    sampled = sample_frames(row, [sampling])[0]
    frames = tuple(
        Frame(encode_jpeg(frame), float(time), f"{row['id']} {index} {settings.longest_side}")
        for index, (frame, time) in enumerate(zip(sampled.frames, sampled.times, strict=True))
    )
    definitions = "\n".join(f"- {name}: {label.definition}" for name, label in LABELS.items())
    number = {"type": "integer", "minimum": 0, "maximum": 100}
    schema = {"type": "object", "properties": dict.fromkeys(LABELS, number), "required": list(LABELS)}
    return ChatRequest(
        (Message("user", (*frames, _INSTRUCTIONS.format(definitions=definitions))),),
        prompt_id="negative labels",
        prompt_version=DEFINITIONS_VERSION,
        clip=str(row["id"]),
        frame_indices=tuple(range(len(frames))),
        sampling=TokenSampling(max_tokens=settings.max_tokens),
        schema=schema | {"additionalProperties": False},
    )


def parse_answer(answer: Answer) -> dict[str, float] | str:
    """Return the probabilities in an answer, or the reason why there are none."""
    if answer.error:
        return "the model did not answer"
    text = answer.text
    try:
        values = json.loads(text[text.index("{") : text.rindex("}") + 1])
        numbers = {name: float(values[name]) for name in LABELS}
    except (ValueError, KeyError, TypeError, RecursionError):
        return "the answer is not JSON with a number per label"
    if any(not 0 <= number <= 100 for number in numbers.values()):
        return "a number is not between 0 and 100"
    return {name: number / 100 for name, number in numbers.items()}
