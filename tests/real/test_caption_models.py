"""Captions by small language models with real weights: `make test-real` fetches them; otherwise skipped."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from cogvideox.curation.captions.back_ends.prompts import SUMMARY
from cogvideox.curation.captions.back_ends.summarizers import ModelSummarizer
from cogvideox.curation.captions.base import CaptionInput, TimedCaption
from cogvideox.curation.captions.facts import ClipFacts
from cogvideox.curation.captions.quality.qa import Question, accuracy, grade
from cogvideox.curation.captions.video_captioner.config import DecoderConfig
from cogvideox.llm.cache import ResponseCache
from cogvideox.llm.chat import ChatRequest, Message, Sampling
from cogvideox.llm.local import LlamaCpp, Transformers
from cogvideox.llm.models import ModelConfig

FOLDER = os.environ.get("COGVIDEOX_CAPTION_MODELS", "")
pytestmark = pytest.mark.skipif(not FOLDER, reason="run by make test-real")
SMOL, QWEN = "smollm2-135m-instruct.gguf", "qwen2.5-coder-0.5b-instruct.gguf"


@pytest.fixture(scope="module", params=[SMOL, QWEN])
def client(request):
    client = ModelConfig(llama_cpp=LlamaCpp(Path(FOLDER) / request.param, threads=1)).client(ResponseCache(":memory:"))
    yield client
    client.model.close()


def test_frames_are_merged_into_a_summary(client):
    summarizer = ModelSummarizer(client, SUMMARY, Sampling(max_tokens=80), max_words=60)
    frames = [TimedCaption(0.0, "A red ball on a white floor."), TimedCaption(2.0, "A red ball beside a chair.")]
    draft = summarizer.summarize(CaptionInput("clip", {}, ClipFacts(), (0.0,)), "A red ball rolls.", frames)
    assert draft.error is None and draft.completion_tokens > 3 and "ball" in draft.text.lower()
    assert summarizer.summarize(CaptionInput("clip", {}, ClipFacts(), (0.0,)), "A red ball rolls.", frames).cached


def test_answers_follow_a_schema(client):
    schema = {"type": "object", "properties": {"answer": {"enum": ["yes", "no"]}}, "required": ["answer"]}
    text = 'Is grass green? Answer in JSON with the key "answer".'
    request = ChatRequest((Message("user", (text,)),), "test", sampling=Sampling(max_tokens=30), schema=schema)
    assert json.loads(client.ask(request).text)["answer"] in ("yes", "no")


def test_questions_are_graded():
    judge = ModelConfig(llama_cpp=LlamaCpp(Path(FOLDER) / QWEN, threads=1)).client(ResponseCache(":memory:"))
    try:
        questions = [Question("a", "What color is the ball?", "red"), Question("a", "What animal is there?", "a cat")]
        graded = grade(judge, {"a": "A red ball rolls over a white floor."}, questions)
        assert graded[0].correct is True
        assert accuracy(graded, QWEN)["accuracy"].protocol["num_failed"] == 0
    finally:
        judge.model.close()


def test_transformers_reads_the_same_file():
    model = Transformers(Path(FOLDER) / SMOL).open()
    answer = model.complete(
        ChatRequest((Message("user", ("What is the capital of France?",)),), "test", sampling=Sampling(max_tokens=12))
    )
    assert "Paris" in answer.text


def test_a_few_steps_of_fine_tuning_lower_the_loss(tmp_path):
    import numpy as np

    from cogvideox.curation.captions.config import CaptionPipelineConfig, StageConfig
    from cogvideox.curation.captions.run import caption_folder
    from cogvideox.toybox.render.renderer import render_scene
    from cogvideox.toybox.scenes.sampler import sample_scene
    from cogvideox.training.captioner.recipes import toybox_summarizer
    from cogvideox.training.captioner.summarizer_trainer import train
    from cogvideox.video import io

    (tmp_path / "clips").mkdir()
    for number in range(12):
        frames = render_scene(sample_scene(number, "core"), num_frames=9)
        io.write(tmp_path / f"clips/{number}.mp4", np.asarray(frames), 8.0)
    toybox = StageConfig("toybox")
    stages = CaptionPipelineConfig(short=toybox, frames=toybox, summary=StageConfig("rules"), measure=())
    caption_folder(tmp_path / "clips", tmp_path / "captions", stages)
    base = toybox_summarizer()
    run = replace(base.run, num_steps=8, batch_size=2, log_interval=1, validate_interval=0, save_interval=0)
    settings = replace(base, model=DecoderConfig(path=str(Path(FOLDER) / SMOL)), data=(str(tmp_path / "captions"),))
    folder = train(replace(settings, run=run, validation_fraction=0.3), tmp_path / "run")
    assert folder is not None and (folder / "model.safetensors").is_file()
    records = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    losses = [record["loss"] for record in records if "loss" in record]
    assert sum(losses[-3:]) < 0.7 * sum(losses[:3])
