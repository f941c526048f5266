"""Settings of a judge, its budget, and stored responses.

A judge is described by a YAML file:

    model: {endpoint: {url: "http://127.0.0.1:8000/v1", model: NAME, price_prompt: 2.5, price_completion: 10}}
    budget: {cost: 5.0}

Responses are stored in `OUT/responses.sqlite` at once, so that no call is paid for twice, even after an interruption.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cogvideox import config
from cogvideox.errors import UserError
from cogvideox.evaluation.scorer import EvaluationStopped
from cogvideox.evaluation.store import file_hash
from cogvideox.llm.cache import ResponseCache, Spent
from cogvideox.llm.chat import Answer, ChatRequest, Sampling
from cogvideox.llm.client import Client, ask_all
from cogvideox.llm.limits import Account, Budget
from cogvideox.llm.models import ModelConfig


@dataclass(frozen=True)
class JudgeSettings:
    """Settings of a judge.

    Attributes:
        model: the endpoint, or a local model.
        budget: limits on all runs in one folder; beyond it, the evaluation stops.
        temperature, max_tokens: decoding parameters.
    """

    model: ModelConfig
    budget: Budget = field(default_factory=Budget)
    temperature: float = 1.0
    max_tokens: int = 2048


def read_settings(file: Path) -> JudgeSettings:
    """Read a judge's settings. Raises UserError if they are invalid, or a limit on the cost has no prices."""
    settings = config.load(JudgeSettings, file)
    endpoint = settings.model.endpoint
    is_free = endpoint is not None and endpoint.price_prompt == endpoint.price_completion == 0
    if settings.budget.cost is not None and is_free:
        raise UserError(f"{file}: budget.cost needs prices: set price_prompt and price_completion of the endpoint")
    return settings


def identity(file: Path) -> dict[str, Any]:
    """Return what the answers depend on, for protocols: the model's name and the decoding parameters."""
    settings = read_settings(file)
    model = settings.model
    local = model.llama_cpp or model.transformers
    name = model.endpoint.model if model.endpoint is not None else str(getattr(local, "path", "local"))
    fields: dict[str, Any] = {"judge": name, "temperature": settings.temperature, "max_tokens": settings.max_tokens}
    if model.llama_cpp is not None and model.endpoint is None:
        fields["weights"] = [file_hash(path) for path in (model.llama_cpp.path, model.llama_cpp.mmproj) if path]
    return fields


def spent(responses: Path) -> Spent:
    """Return the calls and the cost of all runs that share a file of responses."""
    cache = ResponseCache(responses)
    try:
        return cache.spent()
    finally:
        cache.close()


class Judge:
    """Client of a judge whose responses are stored in the folder of an evaluation."""

    def __init__(self, settings: JudgeSettings, responses: Path | None) -> None:
        self.settings = settings
        cache = ResponseCache(":memory:" if responses is None else responses)
        self.client: Client = settings.model.client(cache, Account(settings.budget, cache.spent()))

    def sampling(self, seed: int | None = None) -> Sampling:
        """Return the decoding parameters."""
        return Sampling(self.settings.temperature, self.settings.max_tokens, seed=seed)

    def ask(self, requests: Sequence[ChatRequest]) -> list[Answer]:
        """Return the answers; one with an error has no text.

        Raises:
            EvaluationStopped: no further call can succeed: the budget is used up, the key is wrong, or the server
                cannot be reached.
        """
        try:
            return ask_all(self.client, requests)
        except UserError as error:
            raise EvaluationStopped(str(error)) from error
