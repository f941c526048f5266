"""Budget and rate limit of calls, shared by all threads of a client."""

import threading
import time
from dataclasses import dataclass

from cogvideox.config import check_minimum
from cogvideox.errors import UserError
from cogvideox.llm.cache import Spent


class BudgetExhausted(UserError):
    """The next call would exceed the budget."""


@dataclass(frozen=True)
class Budget:
    """Limits on the calls of all runs that share a cache file; None is unlimited.

    Attributes:
        cost: maximum total cost, in the currency of the model's prices.
        tokens: maximum number of prompt and completion tokens.
        calls: maximum number of calls, including failed attempts.
    """

    cost: float | None = None
    tokens: int | None = None
    calls: int | None = None

    def __post_init__(self) -> None:
        check_minimum(self, "budget.", cost=0, tokens=0, calls=0)


class Account:
    """Account that reserves the maximum cost of each call before it starts, so that the budget is never exceeded."""

    def __init__(self, budget: Budget, spent: Spent) -> None:
        self.budget = budget
        self._cost, self._tokens, self._calls = spent.cost, spent.tokens, spent.calls
        self._lock = threading.Lock()

    def reserve(self, cost: float, tokens: int) -> None:
        """Reserve the cost and tokens of one call.

        Raises:
            BudgetExhausted: the call would exceed the budget.
        """
        with self._lock:
            for name, used, bound in (
                ("cost", self._cost + cost, self.budget.cost),
                ("tokens", self._tokens + tokens, self.budget.tokens),
                ("calls", self._calls + 1, self.budget.calls),
            ):
                if bound is not None and used > bound:
                    raise BudgetExhausted(
                        f"the budget of {bound:g} {name} would be exceeded by the next call: raise budget.{name} and "
                        "run the same command again; paid responses are stored and reused"
                    )
            self._cost, self._tokens, self._calls = self._cost + cost, self._tokens + tokens, self._calls + 1

    def settle(self, cost: float, tokens: int, actual_cost: float, actual_tokens: int, calls: int = 1) -> None:
        """Replace a reservation by the actual cost and tokens; `calls` is 0 if the call did not reach the server."""
        with self._lock:
            self._calls += calls - 1
            self._cost += actual_cost - cost
            self._tokens += actual_tokens - tokens


class RateLimit:
    """Rate limit that spaces calls evenly, and delays all calls when the server requests a pause."""

    def __init__(self, per_minute: float | None) -> None:
        self._interval = 60.0 / per_minute if per_minute else 0.0
        self._next = 0.0
        self._lock = threading.Lock()

    def wait(self, stop: threading.Event) -> None:
        """Wait until the next call is allowed, or until `stop` is set."""
        with self._lock:
            start = max(time.monotonic(), self._next)
            self._next = start + self._interval
        stop.wait(max(0.0, start - time.monotonic()))

    def pause(self, seconds: float) -> None:
        """Delay all further calls by at least the given number of seconds."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)
