import base64
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cogvideox.errors import UserError
from cogvideox.llm.cache import ResponseCache
from cogvideox.llm.chat import ChatRequest, Frame, Message, Sampling
from cogvideox.llm.client import Client, Retries, Stopped, ask_all, run_concurrently
from cogvideox.llm.endpoint import Endpoint, retry_after
from cogvideox.llm.limits import Account, Budget, BudgetExhausted
from cogvideox.llm.models import ModelConfig
from tests.unit.llm.conftest import text_request

QUICK = Retries(first_wait=0.01, longest_wait=0.1)


def make_client(server, cache=None, **fields) -> Client:
    cache = cache or ResponseCache(":memory:")
    return ModelConfig(endpoint=Endpoint(server.url, "tiny", **fields), retries=QUICK).client(cache)


def test_frames_are_sent_as_images_after_their_times(server):
    frames = Frame(b"first", 0.0), Frame(b"second", 2.04)
    request = ChatRequest((Message("system", ("Be brief.",)), Message("user", ("Describe:", *frames))), "p")
    answer = make_client(server).ask(request)
    assert answer.text.endswith("2 images") and answer.error is None and answer.finish_reason == "stop"
    assert (answer.prompt_tokens, answer.completion_tokens) == (3, 4)
    sent = server.requests()[-1]["body"]
    assert sent["messages"][0] == {"role": "system", "content": "Be brief."}
    kinds = [part["type"] for part in sent["messages"][1]["content"]]
    assert kinds == ["text", "text", "image_url", "text", "image_url"]
    assert sent["messages"][1]["content"][3]["text"] == "t=2.0s"
    url = sent["messages"][1]["content"][4]["image_url"]["url"]
    assert base64.b64decode(url.removeprefix("data:image/jpeg;base64,")) == b"second"
    assert (sent["temperature"], sent["max_tokens"], "seed" in sent) == (0.0, 256, False)


def test_frames_as_one_video(server):
    request = ChatRequest((Message("user", (Frame(b"first"), Frame(b"second"), "Describe.")),), "p")
    make_client(server, frames="video_url", extra={"top_k": 1}).ask(request)
    sent = server.requests()[-1]["body"]
    video, text = sent["messages"][0]["content"]
    pictures = video["video_url"]["url"].removeprefix("data:video/jpeg;base64,").split(",")
    assert [base64.b64decode(picture) for picture in pictures] == [b"first", b"second"]
    assert text["text"] == "Describe." and sent["top_k"] == 1


def test_equal_requests_are_sent_once(server):
    client, before = make_client(server), len(server.requests())
    answers = ask_all(client, [text_request("twice the same")] * 8)
    assert len({answer.text for answer in answers}) == 1
    assert len(server.requests()) == before + 1
    assert (client.usage.calls, client.usage.cached) == (1, 7)


def test_overload_is_retried_and_counted(server):
    client = make_client(server)
    assert client.ask(text_request("overloaded, say: done")).text == "done"
    assert client.usage.calls == 3 and client.cache.spent().calls == 3


def test_repeated_failures_are_errors_that_are_not_stored(server):
    client = make_client(server)
    answer = client.ask(text_request("always-fails"))
    assert answer.text == "" and "answered 500: a bug (5 attempts)" in (answer.error or "") and not answer.final
    assert client.ask(text_request("always-fails")).cached is False


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ("refused", "answered 400: the image is too large"),
        ("broken-json", "not a chat completion"),
        ("other-json", "not a chat completion"),
        ("huge-body", "larger than"),
    ],
)
def test_unusable_answers_are_stored_with_the_reason(server, asked, reason):
    client = make_client(server)
    for cached in (False, True):
        answer = client.ask(text_request(asked))
        assert reason in (answer.error or "") and answer.cached is cached
    assert client.usage.errors == 2 and client.usage.calls == 1


@pytest.mark.parametrize(("asked", "num_chars"), [("empty-answer", 0), ("megabyte", 1_000_000)])
def test_empty_and_very_long_texts_are_answers(server, asked, num_chars):
    answer = make_client(server).ask(text_request(asked))
    assert answer.error is None and len(answer.text) == num_chars


def test_schema_is_sent_and_dropped_if_it_is_rejected(server):
    client, schema = make_client(server), {"type": "object"}
    assert client.ask(text_request("say: {}", schema=schema)).text == "{}"
    assert server.requests()[-1]["body"]["response_format"]["json_schema"]["schema"] == schema
    for text in ("no-schema say: 1", "no-schema say: 2"):
        assert client.ask(text_request(text, schema=schema)).text == text[-1]
    assert "response_format" not in server.requests()[-1]["body"]


def test_key_comes_from_the_environment_and_is_never_shown(tmp_path, monkeypatch):
    pytest.importorskip("uvicorn")
    from tests.chat_server import ChatServer

    server = ChatServer(tmp_path, key="sk-right")
    try:
        monkeypatch.setenv("CHAT_TEST_KEY", "sk-wrong")
        with pytest.raises(UserError, match="the key is wrong") as raised:
            make_client(server, key_variable="CHAT_TEST_KEY").ask(text_request("hello"))
        assert "sk-wrong" not in str(raised.value)
        monkeypatch.setenv("CHAT_TEST_KEY", "sk-right")
        cache = ResponseCache(tmp_path / "responses.sqlite")
        assert make_client(server, cache, key_variable="CHAT_TEST_KEY").ask(text_request("say: hi")).text == "hi"
        cache.close()
        assert b"sk-right" not in (tmp_path / "responses.sqlite").read_bytes()
        monkeypatch.delenv("CHAT_TEST_KEY")
        with pytest.raises(UserError, match="CHAT_TEST_KEY with the endpoint's key is not set"):
            make_client(server, key_variable="CHAT_TEST_KEY")
    finally:
        server.kill()


def test_exhausted_budget_stops_and_a_larger_budget_resumes(server):
    cache = ResponseCache(":memory:")
    requests = [text_request(f"budget say: {number}", sampling=Sampling(max_tokens=10)) for number in range(6)]
    endpoint = Endpoint(server.url, "tiny", concurrency=1, price_completion=1e6)
    config = ModelConfig(endpoint=endpoint, retries=QUICK)
    with pytest.raises(BudgetExhausted, match="the budget of 12 cost"):  # a call reserves 10, and costs 1
        ask_all(config.client(cache, Account(Budget(cost=12.0), cache.spent())), requests)
    assert cache.spent().cost == 3.0
    client = config.client(cache, Account(Budget(cost=100.0), cache.spent()))
    assert [answer.text for answer in ask_all(client, requests)] == list("012345")
    assert client.usage.cached == 3 and max(server.computed().values()) == 1


def test_unreachable_server_ends_the_run():
    config = ModelConfig(endpoint=Endpoint("http://127.0.0.1:9/v1", "m"), retries=Retries(5, 0.01, 0.01, patience=0.05))
    with pytest.raises(UserError, match=r"cannot reach http://127.0.0.1:9/v1.*run the same command again"):
        config.client(ResponseCache(":memory:")).ask(text_request("hello"))


def test_no_calls_start_after_stop(server):
    client = make_client(server)
    client.stop()
    with pytest.raises(Stopped):
        client.ask(text_request("too late"))


def test_results_before_a_failure_are_yielded():
    failed = threading.Event()

    def work(item: int) -> int:
        if item == 3:
            raise UserError("three")
        time.sleep(0.01)
        return item

    results = []
    with pytest.raises(UserError, match="three"):
        results.extend(run_concurrently(work, range(100), 2, failed.set))
    assert failed.is_set()
    assert {item for item, _ in results} >= {0, 1, 2} and len(results) <= 4


def test_killed_server_answers_each_request_once(tmp_path):
    pytest.importorskip("uvicorn")
    from tests.chat_server import ChatServer

    server = ChatServer(tmp_path, delay=0.03)
    requests = [text_request(f"number {number}") for number in range(60)]
    cache = ResponseCache(tmp_path / "responses.sqlite")
    client = make_client(server, cache, concurrency=4)
    answers: list = []
    worker = threading.Thread(target=lambda: answers.extend(ask_all(client, requests)))
    worker.start()
    try:
        for number in (10, 25, 40):
            while len(server.requests()) < number:
                time.sleep(0.005)
            server.kill()
            server.start()
        worker.join()
    finally:
        server.kill()
    assert len(answers) == 60 and all(answer.error is None for answer in answers)
    assert sorted(server.computed().values()) == [1] * 60
    assert cache.spent().unknown <= 3 * 4  # those in progress when the server was killed


CLIENT = """
import sys
from cogvideox.llm.cache import ResponseCache
from cogvideox.llm.client import ask_all
from cogvideox.llm.endpoint import Endpoint
from cogvideox.llm.models import ModelConfig
from tests.unit.llm.conftest import text_request

client = ModelConfig(endpoint=Endpoint(sys.argv[1], "tiny", concurrency=4)).client(ResponseCache(sys.argv[2]))
ask_all(client, [text_request(f"number {number}") for number in range(60)])
"""


def test_killed_client_repeats_no_answered_call(tmp_path):
    pytest.importorskip("uvicorn")
    from tests.chat_server import ChatServer

    server, database = ChatServer(tmp_path, delay=0.03), tmp_path / "responses.sqlite"
    command = [sys.executable, "-c", CLIENT, server.url, str(database)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    try:
        for number in (10, 25, 40):
            process = subprocess.Popen(command, env=environment)
            while len(server.requests()) < number:
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
            process.wait()
        subprocess.run(command, env=environment, check=True)
    finally:
        server.kill()
    cache = ResponseCache(database)
    spent = cache.spent()
    assert all(cache.get(text_request(f"number {number}").key("tiny")) for number in range(60))
    assert spent.unknown <= 3 * 4 and spent.calls <= 60 + spent.unknown
    assert sorted(server.computed().values()) == [1] * 60  # the idempotency key prevents a second computation


def test_example_server_reads_what_the_client_sends(server):
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("cogvlm2_server", Path(__file__).parents[3] / "examples/cogvlm2_server.py")
    assert spec is not None and spec.loader is not None
    spec.loader.exec_module(example := module_from_spec(spec))
    frames = Frame(b"first", 0.0), Frame(b"second", 2.0)
    make_client(server).ask(ChatRequest((Message("user", ("Describe: ", *frames)),), "example"))
    assert example.parse_messages(server.requests()[-1]["body"]["messages"]) == ("Describe:", [b"first", b"second"])
    assert example.parse_messages([{"role": "user", "content": ""}]) == (example.DEFAULT_PROMPT, [])


def test_retry_after_header():
    assert retry_after(None) is None and retry_after("soon") is None
    assert retry_after("1.5") == 1.5
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0


def test_invalid_configs_are_errors():
    for config in ({}, {"endpoint": Endpoint("http://h/v1", "m"), "transformers": None, "llama_cpp": None}):
        if config:
            ModelConfig(**config)
        else:
            with pytest.raises(UserError, match="exactly one of"):
                ModelConfig()
    with pytest.raises(UserError, match="is not an address"):
        Endpoint("localhost:8000", "m")
    assert json.dumps(text_request("a").description())
