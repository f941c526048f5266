"""Zero-shot labels from a VLM: request and answer parsing."""

import json

import numpy as np
import pytest

from cogvideox.curation.labels.definitions import LABELS
from cogvideox.llm.cache import ResponseCache
from cogvideox.llm.chat import Answer, ChatRequest
from cogvideox.llm.client import Client
from cogvideox.training.labels.zero_shot import ZeroShotSettings, ask_labels, build_request, parse_answer
from cogvideox.video import io
from cogvideox.video.jpeg import decode_jpeg


class BrightnessModel:
    """Fake chat model that labels bright clips as text."""

    model_id, concurrency, calls = "brightness", 2, 0

    def complete(self, request: ChatRequest) -> Answer:
        self.calls += 1
        bright = np.mean([decode_jpeg(frame.jpeg).mean() for frame in request.frames]) > 128
        if request.clip == "silent":
            return Answer(error="refused")
        text = json.dumps(dict.fromkeys(LABELS, 10) | {"text": 90 if bright else 5})
        return Answer(text=f"Here it is:\n```json\n{text}\n```", finish_reason="stop")

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        return 0.0

    def close(self) -> None: ...


@pytest.fixture
def rows(tmp_path) -> list[dict]:
    rows = []
    for name, level in (("bright", 220), ("dark", 30), ("silent", 100)):
        io.write(tmp_path / f"{name}.mp4", np.full((6, 32, 48, 3), level, np.uint8), 8.0)
        rows.append({"id": name, "path": str(tmp_path / f"{name}.mp4"), "start": 0.0, "end": 0.75, "is_image": False})
    return [*rows, rows[0] | {"id": "gone", "path": "nowhere.mp4"}]


def test_answers_are_converted_to_probabilities_and_cached(rows, tmp_path):
    model = BrightnessModel()
    cache = ResponseCache(tmp_path / "answers.db")
    for _ in range(2):
        result = ask_labels(Client(model, cache), rows, ZeroShotSettings(num_frames=2))
        np.testing.assert_array_equal(result.probabilities["text"], [0.9, 0.05, np.nan, np.nan])
        assert result.failures == {"the clip cannot be read": 1, "the model did not answer": 1}
    assert model.calls <= 4, "answers come from the cache"
    cache.close()


def test_request_contains_the_labels_and_frames(rows):
    request = build_request(rows[0], ZeroShotSettings(num_frames=3, longest_side=24))
    assert [frame.time for frame in request.frames] == sorted(frame.time for frame in request.frames)
    assert len(request.frames) == 3 and decode_jpeg(request.frames[0].jpeg).shape == (16, 24, 3)
    assert all(name in request.messages[0].parts[-1] for name in LABELS)
    assert request.schema["required"] == list(LABELS)
    assert request.key("m") != build_request(rows[1], ZeroShotSettings(num_frames=3, longest_side=24)).key("m")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("no idea", "not JSON"),
        ('{"text": 50}', "not JSON"),
        (json.dumps(dict.fromkeys(LABELS, 101)), "between 0 and 100"),
        (json.dumps(dict.fromkeys(LABELS, "high")), "not JSON"),
        (json.dumps(dict.fromkeys(LABELS, float("nan"))), "between 0 and 100"),
    ],
)
def test_malformed_answers_are_rejected(text, reason):
    assert reason in parse_answer(Answer(text=text))


def test_numbers_are_percentages():
    assert parse_answer(Answer(text=json.dumps(dict.fromkeys(LABELS, 25)))) == dict.fromkeys(LABELS, 0.25)
