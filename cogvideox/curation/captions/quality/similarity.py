"""Similarity of captions to references: ROUGE-L, or the cosine similarity of sentence embeddings.

Similarity detects regressions between two versions of a captioning pipeline. It does not measure quality by itself:
long captions of different clips are also similar.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from cogvideox.errors import UserError


def rouge_l(caption: str, reference: str) -> float:
    """Return the F1 score of the longest common subsequence of words (ROUGE-L, Lin 2004), 0 to 1."""
    first, second = (re.findall(r"\w+", text.lower()) for text in (caption, reference))
    if not first or not second:
        return 0.0
    lengths = [0] * (len(second) + 1)
    for word in first:
        previous = 0
        for column, candidate in enumerate(second, start=1):
            above = lengths[column]
            lengths[column] = previous + 1 if word == candidate else max(above, lengths[column - 1])
            previous = above
    return 2 * lengths[-1] / (len(first) + len(second))


class SentenceEncoder:
    """Sentence embeddings: L2-normalized mean of a BERT model's last hidden states over the tokens (Sentence-BERT)."""

    def __init__(self, folder: str | Path) -> None:
        """Load a model folder, such as all-MiniLM-L6-v2, with transformers.

        Raises:
            UserError: transformers is not installed, or the folder has no sentence encoder.
        """
        try:
            from transformers import AutoModel, AutoTokenizer
        except ImportError as error:
            raise UserError("transformers is not installed: pip install 'cogvideox[llm]'") from error
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
            self._network = AutoModel.from_pretrained(str(folder), local_files_only=True).eval()
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{folder} has no sentence encoder: {' '.join(str(error).split())[:200]}") from error

    def __call__(self, texts: Sequence[str]) -> Float[np.ndarray, "n d"]:
        """Return one embedding per text."""
        import torch

        inputs = self._tokenizer(list(texts), padding=True, truncation=True, max_length=256, return_tensors="pt")
        with torch.inference_mode():
            features = self._network(**inputs).last_hidden_state
        mask = inputs["attention_mask"][..., None].to(features.dtype)
        mean = (features * mask).sum(1) / mask.sum(1)
        return torch.nn.functional.normalize(mean, dim=-1).float().numpy()


def embedding_similarity(encoder: SentenceEncoder, captions: Sequence[str], references: Sequence[str]) -> list[float]:
    """Return the cosine similarity of each caption to its reference, -1 to 1."""
    return (encoder(captions) * encoder(references)).sum(1).tolist()
