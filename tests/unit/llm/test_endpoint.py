"""Answers that cannot be stored, keys that cannot be sent, and the concurrency of a model."""

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from cogvideox.errors import UserError
from cogvideox.llm.cache import ResponseCache
from cogvideox.llm.chat import Answer, ChatRequest, RetryableError, Sampling
from cogvideox.llm.client import Client, Retries
from cogvideox.llm.endpoint import Endpoint, EndpointModel, error_message, parse_completion
from cogvideox.llm.limits import Account, Budget, BudgetExhausted
from cogvideox.llm.models import ModelConfig
from tests.unit.llm.conftest import text_request


class ScriptedModel:
    """A chat model that parses its prompt as the server's response, and counts concurrent calls."""

    model_id = "scripted"
    concurrency = 2

    def __init__(self) -> None:
        self.active = self.max_active = 0
        self.lock = threading.Lock()

    def complete(self, request: ChatRequest) -> Answer:
        with self.lock:
            self.active += 1
            self.max_active = max(self.max_active, self.active)
        time.sleep(0.01)
        with self.lock:
            self.active -= 1
        (body,) = request.messages[0].parts
        assert isinstance(body, str)
        return parse_completion(body)

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        return 0.0

    def close(self) -> None:
        pass


def completion(text: str, prompt_tokens: int = 1, finish_reason: str = "stop") -> str:
    choice = {"message": {"content": text}, "finish_reason": finish_reason}
    return json.dumps({"choices": [choice], "usage": {"prompt_tokens": prompt_tokens}})


class UnansweredModel(ScriptedModel):
    """A model whose calls time out."""

    def complete(self, request: ChatRequest) -> Answer:
        raise RetryableError("no answer in 1 s", unanswered=True)

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        return completion_tokens * 1.0


class PricedModel(ScriptedModel):
    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        return prompt_tokens * 1.0 + completion_tokens * 100.0


def test_calls_that_time_out_count_towards_the_budget_with_their_maximum_cost():
    cache = ResponseCache(":memory:")
    client = Client(UnansweredModel(), cache, Account(Budget(cost=25.0), cache.spent()), retries=Retries(5, 0.001))
    with pytest.raises(BudgetExhausted):  # a call costs at most 10
        client.ask(text_request("x", sampling=Sampling(max_tokens=10)))
    spent = cache.spent()
    assert (spent.calls, spent.unknown, spent.cost) == (2, 2, 20.0)


def test_a_timeout_is_an_unanswered_call():
    with socket.socket() as listener:  # accepts connections and never answers
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        model = EndpointModel(Endpoint(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", "m", timeout=0.2))
        with pytest.raises(RetryableError, match="did not answer in") as raised:
            model.complete(text_request("x"))
        model.close()
    assert raised.value.unanswered


def test_answers_without_token_counts_have_estimated_tokens_and_cost():
    body = json.dumps({"choices": [{"message": {"content": "a red ball moves left"}, "finish_reason": "stop"}]})
    client = Client(PricedModel(), ResponseCache(":memory:"))
    answer = client.ask(text_request(body))
    assert answer.prompt_tokens > len(body) // 2 and answer.completion_tokens == 1 + len("a red ball moves left") // 3
    assert answer.cost == answer.prompt_tokens + 100 * answer.completion_tokens
    assert client.usage.estimated == 1 and client.cache.spent().cost == answer.cost
    client.ask(text_request(completion("a ball")))
    assert client.usage.estimated == 1


def test_unusual_answers_do_not_lose_later_answers():
    client = Client(ScriptedModel(), ResponseCache(":memory:"))
    assert "not a chat completion" in (client.ask(text_request(completion("a", 10**30))).error or "")
    assert client.ask(text_request(completion("a \ud800 ball", 1, "\ud800"))).text == "a ? ball"
    for cached in (False, True):
        answer = client.ask(text_request(completion("a red ball")))
        assert (answer.text, answer.cached) == ("a red ball", cached)
    assert client.cache.spent().unknown == 0
    assert error_message('{"error": "a \\ud800"}') == "a ?"


def test_failed_write_is_rolled_back():
    cache, request = ResponseCache(":memory:"), text_request("a")
    answer = Answer("a red ball", model="m", prompt_tokens=3)
    with pytest.raises(OverflowError):
        cache.put(cache.start("a", 0.0, 0), "a", "m", request, replace(answer, prompt_tokens=10**30))
    cache.put(cache.start("b", 0.0, 0), "b", "m", request, answer)
    assert cache.get("a") is None and cache.get("b") == replace(answer, cached=True)
    assert cache.spent().prompt_tokens == 3


def test_keys_with_newlines_are_never_shown(server, monkeypatch):
    endpoint = Endpoint(server.url, "tiny", key_variable="CHAT_TEST_KEY")
    monkeypatch.setenv("CHAT_TEST_KEY", "sk-secret\nsk-other")
    with pytest.raises(UserError, match="CHAT_TEST_KEY is not a key") as raised:
        EndpointModel(endpoint)
    assert "sk-" not in str(raised.value)
    monkeypatch.setenv("CHAT_TEST_KEY", "sk-secret\n")
    answer = EndpointModel(endpoint).complete(text_request("say: done"))
    assert (answer.text, answer.error) == ("done", None)


def test_concurrency_is_limited_per_model():
    first, second = ScriptedModel(), ScriptedModel()
    cache = ResponseCache(":memory:")
    clients = Client(first, cache), Client(second, cache)
    with ThreadPoolExecutor(16) as pool:
        for number in range(24):
            pool.submit(clients[number % 2].ask, text_request(completion(str(number))))
    assert first.max_active == second.max_active == 2


def test_a_connection_that_breaks_after_the_request_is_an_unanswered_call():
    pytest.importorskip("httpx")
    server, cache = socket.create_server(("127.0.0.1", 0)), ResponseCache(":memory:")

    def serve() -> None:
        for _ in range(2):
            connection, _ = server.accept()
            connection.recv(65536)
            connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n{"id"')
            connection.close()

    threading.Thread(target=serve, daemon=True).start()
    url = f"http://127.0.0.1:{server.getsockname()[1]}/v1"
    config = ModelConfig(endpoint=Endpoint(url, "m", price_completion=1e6), retries=Retries(2, 0.001))
    answer = config.client(cache).ask(text_request("hello", sampling=Sampling(max_tokens=10)))
    assert "broke" in (answer.error or "")
    assert (cache.spent().unknown, cache.spent().cost) == (2, 20.0)
    server.close()
