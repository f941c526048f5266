"""Budget and rate limit of calls, shared by all threads of a client."""

import threading
import time
from dataclasses import dataclass

from cogvideox.errors import UserError
from cogvideox.llm.cache import Spent


class BudgetExhausted(UserError):
    """No further call fits the budget."""


@dataclass(frozen=True)
class Budget:
    """Upper bounds on all calls of a cache file, of all runs together; None is unlimited.

    Attributes:
        cost: in the currency of the model's prices.
        tokens: of prompts and answers.
        calls: including failed attempts.
    """

    cost: float | None = None
    tokens: int | None = None
    calls: int | None = None

    def __post_init__(self) -> None:
        if any(bound is not None and bound < 0 for bound in (self.cost, self.tokens, self.calls)):
            raise UserError("a budget must be 0 or more")


class Account:
    """Reserves the largest possible price of each call before it starts, so that a budget is never exceeded."""

    def __init__(self, budget: Budget, spent: Spent) -> None:
        self.budget = budget
        self._cost, self._tokens, self._calls = spent.cost, spent.tokens, spent.calls
        self._lock = threading.Lock()

    def reserve(self, cost: float, tokens: int) -> None:
        """Reserve one call.

        Raises:
            BudgetExhausted: it does not fit.
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
                        "run the same command again; what was paid is stored and not asked again"
                    )
            self._cost, self._tokens, self._calls = self._cost + cost, self._tokens + tokens, self._calls + 1

    def settle(self, cost: float, tokens: int, true_cost: float, true_tokens: int) -> None:
        """Replace a reservation by what the call took."""
        with self._lock:
            self._cost += true_cost - cost
            self._tokens += true_tokens - tokens


class RateLimit:
    """Spaces calls evenly, and delays all of them when the server asks for it."""

    def __init__(self, per_minute: float | None) -> None:
        self._interval = 60.0 / per_minute if per_minute else 0.0
        self._next = 0.0
        self._lock = threading.Lock()

    def wait(self, stop: threading.Event) -> None:
        """Wait for the next free time, or until `stop` is set."""
        with self._lock:
            start = max(time.monotonic(), self._next)
            self._next = start + self._interval
        stop.wait(max(0.0, start - time.monotonic()))

    def pause(self, seconds: float) -> None:
        """Start no call for some seconds."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)
