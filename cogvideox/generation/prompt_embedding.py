"""Prompt embeddings of a request, with a small cache.

Axes: b prompts (negative or null, then positive), n text tokens, d text width.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from cogvideox.generation.request.request import Request
from cogvideox.pretrained.model_folder import LoadedModel
from cogvideox.pretrained.model_settings import NullText

_CACHE_SIZE = 8


@dataclass(frozen=True)
class PromptEmbeddings:
    """Embedded prompts of one request.

    Attributes:
        prompt: [1 n d] without guidance; with guidance [2 n d], the negative or null prompt and then the prompt.
        null: the unconditional embedding [1 n d]; only for requests with `invert`.
    """

    prompt: Float[Tensor, "b n d"]
    null: Float[Tensor, "1 n d"] | None = None


@dataclass(frozen=True, eq=False)
class PromptEmbedder:
    """Embedding of prompts with a model's text encoder.

    Recent embeddings are cached, so that the null prompt and a prompt used with several seeds are encoded only once.
    """

    model: LoadedModel
    device: torch.device
    dtype: torch.dtype
    cache: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def embed_request(self, request: Request) -> PromptEmbeddings:
        """Return the embeddings for a request.

        Raises:
            UserError: a prompt has more tokens than the model's text length.
        """
        prompt = self.embed(request.prompt)
        kind = request.null_text or self.model.settings.null_text
        null = self._null(prompt, kind) if request.invert else None
        if not request.guided:
            return PromptEmbeddings(prompt, null)
        negative = self.embed(request.negative_prompt) if request.negative_prompt else self._null(prompt, kind)
        return PromptEmbeddings(torch.cat([negative, prompt]), null)

    def embed(self, prompt: str) -> Float[Tensor, "1 n d"]:
        """Return the embedding [1 n d] of a prompt."""
        if prompt not in self.cache:
            if len(self.cache) >= _CACHE_SIZE:
                self.cache.clear()
            self.model.activate("text_encoder")
            ids = self.model.tokenizer.encode([prompt], self.model.settings.text_length)
            self.cache[prompt] = self.model.text_encoder(ids.to(self.device)).to(self.dtype)
        return self.cache[prompt]

    def _null(self, like: Float[Tensor, "1 n d"], kind: NullText) -> Float[Tensor, "1 n d"]:
        """Return the embedding of the null prompt: zeros or the embedding of an empty prompt."""
        return torch.zeros_like(like) if kind == "zero" else self.embed("")
