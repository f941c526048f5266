import sqlite3
import threading

import pytest

from cogvideox.errors import UserError
from cogvideox.llm.cache import ResponseCache, Spent
from cogvideox.llm.chat import Answer, ChatRequest, Frame, Message, Sampling
from cogvideox.llm.limits import Account, Budget, BudgetExhausted, RateLimit
from tests.unit.llm.conftest import text_request

ANSWER = Answer("a red ball", '{"raw": 1}', "m", 10, 3, "stop", 0.5, 1, 0.25)


def test_key_depends_on_all_inputs_of_the_answer():
    frame = Frame(b"jpeg", 0.0, "clip#0")
    request = ChatRequest((Message("user", ("describe", frame)),), "caption", 1, "clip", (0,))
    changed_requests = [
        ChatRequest((Message("user", ("describe it", frame)),), "caption", 1, "clip", (0,)),
        ChatRequest((Message("system", ("describe", frame)),), "caption", 1, "clip", (0,)),
        ChatRequest(request.messages, "caption", 2, "clip", (0,)),
        ChatRequest(request.messages, "other", 1, "clip", (0,)),
        ChatRequest(request.messages, "caption", 1, "clip 2", (0,)),
        ChatRequest(request.messages, "caption", 1, "clip", (1,)),
        ChatRequest(request.messages, "caption", 1, "clip", (0,), Sampling(temperature=0.5)),
        ChatRequest(request.messages, "caption", 1, "clip", (0,), schema={"type": "object"}),
        ChatRequest((Message("user", ("describe", Frame(b"jpeg", 1.0, "clip#0"))),), "caption", 1, "clip", (0,)),
    ]
    keys = {request.key("m"), request.key("other model"), *(changed.key("m") for changed in changed_requests)}
    assert len(keys) == len(changed_requests) + 2
    encoded_again = ChatRequest(
        (Message("user", ("describe", Frame(b"other", 0.0, "clip#0"))),), "caption", 1, "clip", (0,)
    )
    assert encoded_again.key("m") == request.key("m")


def test_answers_and_totals_survive_reopening(tmp_path):
    path, request = tmp_path / "responses.sqlite", text_request("a lone surrogate: \ud800")
    cache = ResponseCache(path)
    assert cache.get("key") is None and cache.spent() == Spent()
    cache.put(cache.start("key", 1.0, 50), "key", "m", request, ANSWER)
    cache.end(cache.start("other", 1.0, 50), "retryable: busy")
    cache.start("killed", 0.5, 50)
    cache.close()
    cache = ResponseCache(path)
    stored = cache.get("key")
    assert stored is not None
    assert (stored.text, stored.raw, stored.finish_reason, stored.cached) == ("a red ball", '{"raw": 1}', "stop", True)
    assert cache.spent() == Spent(
        calls=3, unknown=1, prompt_tokens=10, completion_tokens=3, cost=0.75, unknown_tokens=50
    )


def test_stored_errors_can_be_forgotten():
    cache = ResponseCache(":memory:")
    cache.put(cache.start("a", 0.0, 0), "a", "m", text_request("a"), ANSWER)
    cache.put(cache.start("b", 0.0, 0), "b", "m", text_request("b"), Answer(error="no JSON"))
    assert cache.forget_errors() == 1
    assert cache.get("b") is None and cache.get("a") is not None


def test_invalid_cache_files_are_rejected(tmp_path):
    (tmp_path / "text.sqlite").write_text("this is not a database, " * 100)
    with pytest.raises(UserError, match="cannot open"):
        ResponseCache(tmp_path / "text.sqlite")
    with sqlite3.connect(tmp_path / "new.sqlite") as database:
        database.execute("PRAGMA user_version=99")
    with pytest.raises(UserError, match="version 99"):
        ResponseCache(tmp_path / "new.sqlite")


@pytest.mark.parametrize(("budget", "num_calls"), [(Budget(cost=1.0), 4), (Budget(tokens=25), 2), (Budget(calls=3), 3)])
def test_no_call_exceeds_a_budget(budget, num_calls):
    account = Account(budget, Spent())
    for _ in range(num_calls):
        account.reserve(0.25, 10)
    with pytest.raises(BudgetExhausted, match="the budget of"):
        account.reserve(0.25, 10)
    if budget.calls is None:
        account.settle(0.25, 10, 0.0, 0)  # the call cost nothing
        account.reserve(0.25, 10)


def test_earlier_runs_count_towards_the_budget():
    with pytest.raises(BudgetExhausted):
        Account(Budget(cost=1.0), Spent(cost=0.9)).reserve(0.2, 1)


def test_rate_limit_spaces_calls():
    limit, stop, waited = RateLimit(60.0), threading.Event(), []
    stop.wait = lambda seconds: waited.append(seconds)  # type: ignore[method-assign]
    for _ in range(3):
        limit.wait(stop)
    limit.pause(10.0)
    limit.wait(stop)
    assert waited[0] == 0.0
    assert 0.9 < waited[1] <= 1.0 and 1.9 < waited[2] <= 2.0 and 9.9 < waited[3] <= 10.0
