"""Embed the prompts of a request, with a small cache.

Axes: b prompts (negative or null, then positive), n text tokens, d text width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cogvideox.generation.request.request import Request
from cogvideox.pretrained.model_folder import LoadedModel
from cogvideox.pretrained.model_spec import ModelSpec
from cogvideox.text.tokenizer import Tokenizer

_CACHE_SIZE = 8


@dataclass(frozen=True)
class PromptEmbeddings:
    """Embedded prompts of one request.

    prompt: [1 n d] without guidance; with guidance [2 n d], what it steers away from and then the prompt.
    null: the unconditional embedding [1 n d]; only for a request with `invert`.
    """

    prompt: Float[Tensor, "b n d"]
    null: Float[Tensor, "1 n d"] | None = None


class PromptEmbedder:
    """Embeds prompts with a model's text encoder. Recent embeddings are kept: the null prompt, and a prompt that is
    used with many seeds, are encoded once."""

    def __init__(self, bundle: LoadedModel, device: torch.device, dtype: torch.dtype) -> None:
        self._bundle, self._device, self._dtype = bundle, device, dtype
        self._cache: dict[str, Tensor] = {}

    def embed_request(self, request: Request) -> PromptEmbeddings:
        """The embeddings that a request needs.

        Raises:
            UserError: a prompt has more tokens than the model's text length.
        """
        prompt = self.embed(request.prompt)
        null = self._null(prompt) if request.invert else None
        if not request.guided:
            return PromptEmbeddings(prompt, null)
        negative = self.embed(request.negative_prompt) if request.negative_prompt else self._null(prompt)
        return PromptEmbeddings(torch.cat([negative, prompt]), null)

    def embed(self, text: str) -> Float[Tensor, "1 n d"]:
        """The embedding of one text."""
        if text not in self._cache:
            if len(self._cache) >= _CACHE_SIZE:
                self._cache.clear()
            self._bundle.activate("text_encoder")
            ids = self._bundle.tokenizer.encode([text], self._bundle.settings.text_length)
            self._cache[text] = self._bundle.text_encoder(ids.to(self._device)).to(self._dtype)
        return self._cache[text]

    def _null(self, like: Float[Tensor, "1 n d"]) -> Float[Tensor, "1 n d"]:
        """The embedding of the null prompt: zeros or that of the empty text, as the model was trained."""
        return torch.zeros_like(like) if self._bundle.settings.null_text == "zero" else self.embed("")


def check_prompts(requests: Sequence[Request], spec: ModelSpec) -> None:
    """Check the length of all prompts, before weights are loaded.

    Raises:
        UserError: a prompt has more tokens than the model's text length.
    """
    texts = {text for request in requests for text in (request.prompt, request.negative_prompt)}
    Tokenizer.from_folder(spec.path / "tokenizer").encode(sorted(texts), spec.settings.text_length)
