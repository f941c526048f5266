"""End-to-end captioning of rendered clips with the toybox back-ends, and with models behind a server with failures."""

import json
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

from cogvideox import config
from cogvideox.curation.captions.back_ends.prompts import Prompt
from cogvideox.curation.captions.back_ends.summarizers import RulesSummarizer
from cogvideox.curation.captions.base import CaptionInput, Draft, Rejected
from cogvideox.curation.captions.config import CaptionPipelineConfig, StageConfig
from cogvideox.curation.captions.facts import ClipFacts, Measurer
from cogvideox.curation.captions.frame_times import caption_times
from cogvideox.curation.captions.page import write_page
from cogvideox.curation.captions.pipeline import open_pipeline
from cogvideox.curation.captions.run import POLICY, RESPONSES, caption_folder
from cogvideox.errors import UserError
from cogvideox.filter_policy.policy import Policy
from cogvideox.filter_policy.schedule import Schedule
from cogvideox.filter_policy.selector import Selector
from cogvideox.generation.enhance import CaptionStyle
from cogvideox.llm.cache import ResponseCache
from cogvideox.llm.client import Retries
from cogvideox.llm.endpoint import Endpoint
from cogvideox.llm.limits import Budget
from cogvideox.llm.models import ModelConfig
from cogvideox.toybox.captions.caption import parse_prompt
from cogvideox.toybox.render.renderer import render_scene
from cogvideox.toybox.scenes.sampler import sample_scene
from cogvideox.video import io

TOYBOX = CaptionPipelineConfig(
    short=StageConfig("toybox"), frames=StageConfig("toybox"), summary=StageConfig("rules"), interval=0.5, measure=()
)
NUM_CLIPS = 4


@pytest.fixture(scope="module")
def scenes():
    rng = np.random.default_rng(4)
    return [sample_scene(rng, "core", split="all") for _ in range(NUM_CLIPS)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, scenes):
    pytest.importorskip("cv2")
    folder = tmp_path_factory.mktemp("clips")
    for number, scene in enumerate(scenes):
        frames = render_scene(scene, num_frames=9, height=64, width=96)
        io.write(folder / f"{number}.mp4", np.asarray(frames), 8.0)
    (folder / "broken.mp4").write_bytes(b"no video")
    return folder


@pytest.fixture(scope="module")
def captioned(folder, tmp_path_factory):
    """Output folder with the results of the toybox back-ends."""
    output = tmp_path_factory.mktemp("captioned") / "out"
    assert caption_folder(folder, output, TOYBOX).statuses == {"ok": NUM_CLIPS}
    return output


@pytest.fixture
def output(captioned, tmp_path):
    return shutil.copytree(captioned, tmp_path / "out")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    from tests.chat_server import ChatServer

    server = ChatServer(tmp_path_factory.mktemp("server"), delay=0.02)
    yield server
    server.kill()


def model_pipeline(url: str, prompt: str, attempts: int = 3, **fields) -> CaptionPipelineConfig:
    endpoint = Endpoint(url, "tiny", price_prompt=1e3, price_completion=1e4)
    model = ModelConfig(endpoint=endpoint, retries=Retries(attempts, 0.01, 0.05))
    summary = StageConfig("model", "teacher", Prompt("test", 1, prompt))
    return replace(TOYBOX, models={"teacher": model}, summary=summary, **fields)


def rows_of(output: Path) -> list[dict]:
    return parquet.read_table(output / "captions.parquet").to_pylist()


def test_toybox_pipeline_reads_the_facts_from_pixels(folder, scenes, output):
    num_correct = total = 0
    for row, scene in zip(rows_of(output), scenes):
        parsed = parse_prompt(row["caption.summary"], "core")
        num_correct += sum(parsed.get(name) == word for name, word in scene.facts.items())
        total += len(scene.facts)
        frames = json.loads(row["caption.frames"])
        assert [frame["time"] for frame in frames] == [0.0, 0.5, 1.0]
        assert "moves" not in frames[0]["text"]
    assert num_correct / total > 0.9
    listed = parquet.read_table(output / "metadata.parquet").to_pylist()
    assert len(listed) == NUM_CLIPS and listed[0]["start"] is None
    assert (output / listed[0]["file_name"]).resolve() == (folder / "0.mp4").resolve()
    style = CaptionStyle.load(output / "caption-style.yaml")
    assert style.words[0] <= style.words[1] <= style.words[2] and len(style.examples) == 3
    page = write_page(output).read_text()
    assert page.count("class='clip'") == NUM_CLIPS and "data:image/jpeg" in page


def test_finished_stages_are_reused(folder, output, server):
    steps = []
    caption_folder(folder, output, TOYBOX, on_progress=steps.append)
    assert steps == []
    pipeline_config = model_pipeline(server.url, "say: A ball rolls over the floor.")
    result = caption_folder(folder, output, pipeline_config, on_progress=steps.append)
    assert result.statuses == {"ok": NUM_CLIPS} and len(steps) == NUM_CLIPS and steps[-1].usage.calls == NUM_CLIPS
    assert {row["caption.summary"] for row in rows_of(output)} == {"A ball rolls over the floor."}


def test_a_limit_keeps_the_tables_of_a_finished_folder(folder, output):
    before = rows_of(output)
    result = caption_folder(folder, output, TOYBOX, limit=1)
    assert rows_of(output) == before and result.statuses == {"ok": NUM_CLIPS}


def test_failed_checks_are_retried_with_the_reason(folder, output, server):
    pipeline_config = model_pipeline(server.url, "say: In this video a ball rolls.", repairs=1)
    result = caption_folder(folder, output, pipeline_config, limit=1)
    retries = [request for request in server.requests() if "cannot be used" in request["asked"]]
    assert "it says 'In this video' instead of describing directly" in retries[-1]["asked"]
    messages = retries[-1]["body"]["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert retries[-1]["body"]["temperature"] == 0.4
    row = rows_of(output)[0]
    assert row["caption.summary_attempts"] == 2 and result.statuses == {"rejected": 1}


@pytest.mark.parametrize(
    ("prompt", "status", "reason"),
    [
        ("empty-answer", "rejected", "empty: it is empty"),
        ("megabyte", "rejected", "too_many_words"),
        ("broken-json", "failed", "not a chat completion in JSON"),
        ("refused", "failed", "the image is too large"),
        ("always-fails", "failed", "(3 attempts)"),
        ("cut-off", "rejected", "cut_off"),
    ],
)
def test_bad_answers_are_stored_with_reasons(folder, output, server, prompt, status, reason):
    result = caption_folder(folder, output, model_pipeline(server.url, prompt, repairs=0), limit=1)
    (row,) = rows_of(output)
    assert result.statuses == {status: 1} and reason in row["reason"]
    assert parquet.read_table(output / "metadata.parquet").num_rows == 0
    assert row["caption.short"] and reason.split(":")[0] in write_page(output).read_text()


def test_exhausted_budget_ends_the_run_and_a_larger_budget_resumes(folder, output, server):
    pipeline_config = model_pipeline(server.url, "say: A ball rolls over the floor.", budget=Budget(calls=2))
    with pytest.raises(UserError, match="the budget of 2 calls would be exceeded"):
        caption_folder(folder, output, pipeline_config)
    statuses = [row["status"] for row in rows_of(output)]
    assert statuses.count("ok") == 2 and statuses.count("pending") == NUM_CLIPS - 2
    result = caption_folder(folder, output, replace(pipeline_config, budget=Budget(calls=50)))
    assert result.statuses == {"ok": NUM_CLIPS} and result.usage.calls == NUM_CLIPS - 2
    assert result.spent.calls == NUM_CLIPS


@pytest.mark.slow
def test_killed_server_loses_and_repeats_no_requests(folder, output, tmp_path):
    pytest.importorskip("uvicorn")
    from tests.chat_server import ChatServer

    server = ChatServer(tmp_path, delay=0.1)
    pipeline_config = model_pipeline(server.url, "say: A ball rolls over the floor.", attempts=10)
    run = threading.Thread(target=lambda: caption_folder(folder, output, pipeline_config))
    try:
        run.start()
        for number in (1, 2, 3):
            while len(server.requests()) < number and run.is_alive():
                time.sleep(0.005)
            server.kill()
            server.start()
        run.join()
    finally:
        server.kill()
    assert [row["status"] for row in rows_of(output)] == ["ok"] * NUM_CLIPS
    assert sorted(server.computed().values()) == [1] * NUM_CLIPS
    assert (output / RESPONSES).is_file()


def test_failed_clips_are_retried_only_on_request(folder, output, server):
    pipeline_config = model_pipeline(server.url, "broken-json")
    assert caption_folder(folder, output, pipeline_config, limit=1).usage.calls == 1
    assert caption_folder(folder, output, pipeline_config, limit=1).usage.calls == 0
    assert caption_folder(folder, output, pipeline_config, limit=1, retry_failed=True).usage.calls == 1


def test_mix_policy_selects_one_caption_per_clip(folder, output):
    pipeline_config = replace(TOYBOX, short_fraction=Schedule((100, 200), (1.0, 0.0)))
    caption_folder(folder, output, pipeline_config)
    table = parquet.read_table(output / "metadata.parquet").to_pylist()
    assert len(table) == 2 * NUM_CLIPS
    policy = config.load(Policy, output / POLICY)
    for step, num_short in ((0, NUM_CLIPS), (200, 0), (10**6, 0)):
        kept = Selector(policy, {"caption_mix": [row["caption_mix"] for row in table]}, len(table)).mask(step)
        chosen = [row for row, keep in zip(table, kept) if keep]
        assert len({row["clip_id"] for row in chosen}) == len(chosen) == NUM_CLIPS
        assert sum(row["caption_mix"] < 1 for row in chosen) == num_short


def test_mix_policy_selects_the_requested_fraction():
    from cogvideox.curation.captions.outputs import mix_value

    policy = replace(TOYBOX, short_fraction=0.3).mix_policy()
    values = np.array([mix_value(f"clip {number}") for number in range(20_000)])
    short = Selector(policy, {"caption_mix": values}, len(values)).mask(5)
    long = Selector(policy, {"caption_mix": values + 1}, len(values)).mask(5)
    assert (short ^ long).all() and abs(short.mean() - 0.3) < 0.01


def test_rules_summarizer_adds_new_phrases():
    clip = CaptionInput("", {}, ClipFacts(), (0.0,))
    from cogvideox.curation.captions.base import TimedCaption

    frames = [TimedCaption(0.0, "A red ball, mostly gray."), TimedCaption(2.0, "A red ball, a dog.")]
    assert RulesSummarizer().summarize(clip, "A red ball.", frames) == Draft("A red ball. Mostly gray. A dog.")
    assert RulesSummarizer().summarize(clip, None, frames, [Rejected("", "")]).text == "A red ball, mostly gray. A dog."


def test_caption_times():
    assert caption_times(0.0, 2.0) == (0.0,)
    assert caption_times(4.0, 2.0) == (0.0, 2.0)
    assert caption_times(4.1, 2.0) == (0.0, 2.0, 4.0)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({}, "at least one of the stages"),
        ({"summary": {"kind": "rules"}}, "add the stage short or frames"),
        ({"short": {"kind": "model"}}, "needs `model`, the name of a model"),
        ({"short": {"kind": "model", "model": "x"}}, "is not in models"),
        ({"short": {"kind": "tags"}, "short_fraction": 0.5}, "short_fraction needs two kinds of captions"),
        ({"short": {"kind": "tags"}, "interval": 0.0}, "interval=0.0 must be 0.01 or more"),
    ],
)
def test_invalid_pipeline_configs(data, reason):
    with pytest.raises(UserError, match=reason):
        config.from_dict(CaptionPipelineConfig, data)


def test_unknown_kinds_and_folders_without_clips(folder, tmp_path):
    with pytest.raises(UserError, match=r"short.kind=cat does not exist; available: model, tags, toybox"):
        caption_folder(folder, tmp_path / "a", replace(TOYBOX, short=StageConfig("cat")))
    (tmp_path / "b").mkdir()
    (tmp_path / "b/x.mp4").write_bytes(b"no video")
    with pytest.raises(UserError, match="has no usable clips"):
        caption_folder(tmp_path / "b", tmp_path / "c", TOYBOX)


def test_clip_that_cannot_be_measured_is_recorded_as_failed(folder, tmp_path, monkeypatch):
    calls, measure = [], Measurer.clip

    def fail_first(self, row, frames):
        calls.append(row["id"])
        if len(calls) == 1:
            raise RuntimeError("cannot measure")
        return measure(self, row, frames)

    monkeypatch.setattr(Measurer, "clip", fail_first)
    result = caption_folder(folder, tmp_path, replace(TOYBOX, frames=None, summary=None))
    assert result.statuses == {"failed": 1, "ok": NUM_CLIPS - 1}
    assert rows_of(tmp_path)[0]["reason"] == "facts: RuntimeError: cannot measure"
    assert caption_folder(folder, tmp_path, TOYBOX).statuses == {"failed": 1, "ok": NUM_CLIPS - 1}


def test_cost_budget_needs_prices(folder, tmp_path):
    model = ModelConfig(endpoint=Endpoint("http://127.0.0.1:9/v1", "m"))
    pipeline_config = replace(TOYBOX, models={"m": model}, summary=StageConfig("model", "m"), budget=Budget(cost=1.0))
    with pytest.raises(UserError, match="has no effect: set price_prompt"):
        caption_folder(folder, tmp_path, pipeline_config)


def test_failed_retry_does_not_replace_a_caption():
    class BackEnd:
        can_retry = True

    text = "a ball rolls in this video"
    drafts = iter([Draft(text, finish_reason="length"), Draft("", error="overloaded")])
    pipeline = open_pipeline(TOYBOX, ResponseCache(":memory:"))
    checked = pipeline._check("short", ClipFacts(), BackEnd(), lambda rejected: next(drafts))
    assert checked.draft.text == text and checked.draft.error is None
    assert checked.attempts == 2 and len(checked.problems) >= 2


def test_word_limit_of_a_stage():
    pipeline_config = replace(TOYBOX, summary=StageConfig("rules", max_words=7))
    assert [pipeline_config.max_words(name) for name in ("short", "frames", "summary")] == [40, 100, 7]
    assert open_pipeline(pipeline_config, ResponseCache(":memory:")).back_ends["summary"].max_words == 7
