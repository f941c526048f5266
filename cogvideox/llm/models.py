"""Model config: selects an endpoint, llama.cpp or transformers, and opens a client for the model."""

from dataclasses import dataclass, field
from pathlib import Path

from cogvideox.errors import UserError
from cogvideox.llm.cache import ResponseCache
from cogvideox.llm.chat import ChatModel
from cogvideox.llm.client import Client, Retries
from cogvideox.llm.endpoint import Endpoint
from cogvideox.llm.limits import Account
from cogvideox.llm.local import LlamaCpp, Transformers


@dataclass(frozen=True)
class ModelConfig:
    """Config of one model: exactly one of `endpoint`, `llama_cpp` and `transformers`.

    Attributes:
        endpoint: config of an OpenAI-compatible endpoint.
        llama_cpp: config of a GGUF file, served by llama.cpp in this process.
        transformers: config of a model folder, run by transformers in this process.
        retries: retry policy of failed calls.
    """

    endpoint: Endpoint | None = None
    llama_cpp: LlamaCpp | None = None
    transformers: Transformers | None = None
    retries: Retries = field(default_factory=Retries)

    def __post_init__(self) -> None:
        if sum(kind is not None for kind in (self.endpoint, self.llama_cpp, self.transformers)) != 1:
            raise UserError("a model has exactly one of endpoint, llama_cpp and transformers")

    def open(self) -> ChatModel:
        """Open the model.

        Raises:
            UserError: the model cannot be opened.
        """
        kind = self.endpoint or self.llama_cpp or self.transformers
        assert kind is not None
        return kind.open()

    def client(self, cache: ResponseCache, account: Account | None = None) -> Client:
        """Open the model, and return a client for it.

        Raises:
            UserError: the model cannot be opened.
        """
        per_minute = self.endpoint.per_minute if self.endpoint else None
        return Client(self.open(), cache, account, retries=self.retries, per_minute=per_minute)

    @classmethod
    def from_path(cls, path: str | Path) -> "ModelConfig":
        """Return the config of a local model: llama.cpp for a GGUF file, transformers for a folder."""
        path = Path(path)
        return cls(llama_cpp=LlamaCpp(path)) if path.suffix == ".gguf" else cls(transformers=Transformers(path))
