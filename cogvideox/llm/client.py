"""Chat client with a response cache, retries, a rate limit and a budget."""

import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from cogvideox.errors import UserError
from cogvideox.llm.cache import UNANSWERED, ResponseCache
from cogvideox.llm.chat import Answer, ChatModel, ChatRequest, RetryableError
from cogvideox.llm.limits import Account, Budget, RateLimit

Item = TypeVar("Item")
Result = TypeVar("Result")

TOKENS_PER_FRAME = 1600
"""Upper bound used to reserve the maximum cost of a call; models use about 85 to 1600 per frame of 768 pixels."""


class Stopped(Exception):
    """`Client.stop` was called before the request was sent."""


@dataclass(frozen=True)
class Retries:
    """Retry policy.

    Attributes:
        attempts: maximum number of calls per request. Attempts that do not reach the server do not count.
        first_wait, longest_wait: initial and maximum backoff in seconds; doubled on each retry (with jitter).
        patience: seconds after which the run fails if the server is unreachable.
    """

    attempts: int = 5
    first_wait: float = 0.5
    longest_wait: float = 30.0
    patience: float = 60.0


@dataclass(frozen=True)
class Usage:
    """Calls, tokens and cost of a client in this run.

    Attributes:
        estimated: number of answers without token counts, whose tokens are estimated from the length of the texts.
    """

    calls: int = 0
    cached: int = 0
    errors: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    cost: float = 0.0
    estimated: int = 0

    def __add__(self, usage: "Usage") -> "Usage":
        return Usage(*(getattr(self, name) + getattr(usage, name) for name in self.__dataclass_fields__))


class Client:
    """Client that sends requests to a model through the response cache. Thread-safe.

    Several clients may share one cache and account, so that one budget applies to all models.
    """

    def __init__(
        self,
        model: ChatModel,
        cache: ResponseCache,
        account: Account | None = None,
        *,
        retries: Retries | None = None,
        per_minute: float | None = None,
    ) -> None:
        self.model, self.cache = model, cache
        self.account = account or Account(Budget(), cache.spent())
        self.retries = retries or Retries()
        self.usage = Usage()
        self._rate = RateLimit(per_minute)
        self._random = random.Random(0)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(model.concurrency)
        self._in_progress: dict[str, threading.Lock] = {}

    def stop(self) -> None:
        """Start no further calls: uncached requests raise `Stopped`. Calls in progress finish normally."""
        self._stop.set()

    def ask(self, request: ChatRequest) -> Answer:
        """Return the answer to a request, from the cache if available. Identical requests are sent once.

        An answer with an error has no text: the server rejected the request, sent an invalid response, or failed
        repeatedly.

        Raises:
            BudgetExhausted: the call would exceed the budget.
            Stopped: `stop` was called.
            UserError: no request can succeed: wrong key, unknown model or unreachable server.
        """
        key = request.key(self.model.model_id)
        with self._only_one(key):
            answer = self.cache.get(key)
            if answer is None:
                with self._slots:
                    answer = self._call(key, request)
        self._count(answer)
        return answer

    def _call(self, key: str, request: ChatRequest) -> Answer:
        prompt_tokens, completion_tokens = estimate_tokens(request)
        reserved = self.model.cost(prompt_tokens, completion_tokens)
        tokens = prompt_tokens + completion_tokens
        attempts, unreachable_since = 0, None
        while True:
            self._rate.wait(self._stop)
            if self._stop.is_set():
                raise Stopped
            self.account.reserve(reserved, tokens)
            call = self.cache.start(key, reserved, tokens)
            start = time.perf_counter()
            try:
                answer = self.model.complete(request)
            except RetryableError as error:
                if error.unavailable:
                    self.cache.cancel(call)
                else:
                    self.cache.end(call, f"{UNANSWERED if error.unanswered else 'retryable: '}{error}")
                if not error.unanswered:  # otherwise the reservation stays, because the call may have been charged
                    self.account.settle(reserved, tokens, 0.0, 0, calls=0 if error.unavailable else 1)
                if error.unavailable:
                    unreachable_since = unreachable_since or time.monotonic()
                    if time.monotonic() - unreachable_since > self.retries.patience:
                        raise UserError(f"{error}: start the server and run the same command again") from error
                else:
                    attempts, unreachable_since = attempts + 1, None
                    if attempts >= self.retries.attempts:
                        return Answer(error=f"{error} ({attempts} attempts)", attempts=attempts, final=False)
                self._back_off(max(attempts, 1), error.wait)
            except BaseException as error:
                rejected = isinstance(error, UserError)
                self.cache.end(call, f"{'' if rejected else UNANSWERED}{type(error).__name__}: {error}")
                if rejected:
                    self.account.settle(reserved, tokens, 0.0, 0)
                raise
            else:
                answer = self._with_tokens(request, answer)
                cost = self.model.cost(answer.prompt_tokens, answer.completion_tokens)
                answer = replace(answer, attempts=attempts + 1, seconds=time.perf_counter() - start, cost=cost)
                self.cache.put(call, key, self.model.model_id, request, answer)
                self.account.settle(reserved, tokens, cost, answer.prompt_tokens + answer.completion_tokens)
                return answer

    def _with_tokens(self, request: ChatRequest, answer: Answer) -> Answer:
        """Return the answer; if the server reported no token counts, with estimates that are rather too high."""
        if answer.free or answer.prompt_tokens or answer.completion_tokens:
            return answer
        prompt_tokens, limit = estimate_tokens(request)
        with self._lock:
            self.usage += Usage(estimated=1)
        text = answer.text or answer.raw
        return replace(answer, prompt_tokens=prompt_tokens, completion_tokens=min(limit, 1 + len(text.encode()) // 3))

    def _back_off(self, attempts: int, retry_after: float | None) -> None:
        seconds = min(self.retries.longest_wait, self.retries.first_wait * 2 ** (attempts - 1))
        if retry_after is not None:
            seconds = min(max(retry_after, 0.0), 10 * self.retries.longest_wait)
            self._rate.pause(seconds)
        with self._lock:
            seconds *= 1.0 + 0.25 * self._random.random()
        self._stop.wait(seconds)

    def _count(self, answer: Answer) -> None:
        with self._lock:
            self.usage += Usage(
                calls=0 if answer.cached else answer.attempts,
                cached=int(answer.cached),
                errors=int(answer.error is not None),
                prompt_tokens=0 if answer.cached else answer.prompt_tokens,
                completion_tokens=0 if answer.cached else answer.completion_tokens,
                seconds=0.0 if answer.cached else answer.seconds,
                cost=0.0 if answer.cached else answer.cost,
            )

    @contextmanager
    def _only_one(self, key: str) -> Iterator[None]:
        """Hold a lock for the key, so that one thread at a time handles a request."""
        with self._lock:
            lock = self._in_progress.setdefault(key, threading.Lock())
        try:
            with lock:
                yield
        finally:
            with self._lock:
                self._in_progress.pop(key, None)


def run_concurrently(
    function: Callable[[Item], Result], items: Iterable[Item], concurrency: int, on_error: Callable[[], Any]
) -> Iterator[tuple[Item, Result]]:
    """Apply a function to items in a thread pool, and yield (item, result) pairs in order of completion.

    If the function or the consumer raises, `on_error` is called, no further items are started, calls in progress
    finish, and the error is re-raised. Completed results are yielded first.
    """
    remaining = iter(items)
    pending: dict[Future[Result], Item] = {}
    failure: BaseException | None = None
    with ThreadPoolExecutor(max(1, concurrency)) as pool:
        try:
            while True:
                while failure is None and len(pending) < concurrency:
                    try:
                        item = next(remaining)
                    except StopIteration:
                        break
                    pending[pool.submit(function, item)] = item
                if not pending:
                    break
                done = wait(pending, return_when=FIRST_COMPLETED).done
                for future in done:
                    item = pending.pop(future)
                    error = future.exception()
                    if error is None:
                        yield item, future.result()
                    elif failure is None or isinstance(failure, Stopped):
                        failure = error
                        on_error()
        except BaseException:
            on_error()
            raise
    if failure is not None:
        raise failure


def ask_all(client: Client, requests: Sequence[ChatRequest]) -> list[Answer]:
    """Return the answers to several requests, with `model.concurrency` requests in flight."""
    answers: dict[int, Answer] = {}
    indices = range(len(requests))

    def ask(index: int) -> Answer:
        return client.ask(requests[index])

    for index, answer in run_concurrently(ask, indices, client.model.concurrency, client.stop):
        answers[index] = answer
    return [answers[index] for index in indices]


def estimate_tokens(request: ChatRequest) -> tuple[int, int]:
    """Return conservative estimates of the number of prompt and completion tokens."""
    texts = [part for message in request.messages for part in message.parts if isinstance(part, str)]
    num_bytes = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
    schema = 0 if request.schema is None else len(str(request.schema))
    prompt = 50 + (num_bytes + schema) // 2 + TOKENS_PER_FRAME * len(request.frames)
    return prompt, request.sampling.max_tokens
