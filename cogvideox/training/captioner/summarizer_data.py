"""Tokenized summary pairs: the chat prompt of the summarizer and the summary as the answer.

Axes: `b` pairs, `n` tokens.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from cogvideox.curation.captions.captioned_folder import SummaryPair, is_validation, summary_pairs
from cogvideox.curation.captions.video_captioner.model import IGNORED
from cogvideox.errors import UserError
from cogvideox.training.captioner.config import SummarizerTraining
from cogvideox.training.rng import clip_indices


class PairBatch(NamedTuple):
    """Token ids of prompts and summaries, padded on the left, so that all summaries end at the last token.

    `labels` are the ids of the summary and the end token; others are `IGNORED`.
    """

    ids: Int[Tensor, "b n"]
    mask: Int[Tensor, "b n"]
    labels: Int[Tensor, "b n"]


def split_pairs(settings: SummarizerTraining) -> tuple[list[SummaryPair], list[SummaryPair]]:
    """Return the training and the validation pairs of the folders in `settings.data`.

    Raises:
        UserError: there are no pairs for training or none for validation.
    """
    pairs = summary_pairs(settings.data)
    held_out = [is_validation(pair.clip, settings.validation_fraction) for pair in pairs]
    training = [pair for pair, held in zip(pairs, held_out) if not held]
    validation = [pair for pair, held in zip(pairs, held_out) if held]
    if not training or not validation:
        raise UserError(
            f"{len(pairs)} summaries are split into {len(training)} for training and {len(validation)} for validation: "
            "caption more clips, or change validation_fraction"
        )
    return training, validation


def chat_prompt(tokenizer: Any, prompt: str) -> str:
    """Return the text that the model continues, as `llm.local` sends it.

    Raises:
        UserError: the model has no chat template.
    """
    if tokenizer.chat_template is None:
        raise UserError("the model has no chat template: choose an instruction-tuned model")
    messages = [{"role": "user", "content": prompt}]
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)


class PairData:
    """Batches of tokenized pairs. Pairs longer than `settings.max_tokens` are left out.

    Raises:
        UserError: every pair is too long, or the model has no chat template.
    """

    def __init__(self, settings: SummarizerTraining, tokenizer: Any, pairs: Sequence[SummaryPair]) -> None:
        self.settings, self.pad = settings, tokenizer.pad_token_id
        encoded = [
            (
                tokenizer(chat_prompt(tokenizer, pair.prompt), add_special_tokens=False)["input_ids"],
                [*tokenizer(pair.summary, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id],
            )
            for pair in pairs
        ]
        self.examples = [pair for pair in encoded if len(pair[0]) + len(pair[1]) <= settings.max_tokens]
        if not self.examples:
            longest = max(len(prompt) + len(summary) for prompt, summary in encoded)
            raise UserError(f"every pair has more than max_tokens={settings.max_tokens} tokens; the longest {longest}")

    def make_batch(self, step: int) -> PairBatch:
        """Make the batch of step `step` (0-based). Each epoch has every pair once, in a new order."""
        run = self.settings.run
        return self.batch(clip_indices(run.seed, step, run.batch_size, len(self.examples)))

    def batch(self, indices: Sequence[int]) -> PairBatch:
        """Return some of the pairs as a batch."""
        chosen = [self.examples[index] for index in indices]
        length = max(len(prompt) + len(summary) for prompt, summary in chosen)
        ids = torch.full((len(chosen), length), self.pad)
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
        for row, (prompt, summary) in enumerate(chosen):
            tokens = torch.tensor([*prompt, *summary])
            ids[row, length - len(tokens) :], mask[row, length - len(tokens) :] = tokens, 1
            labels[row, length - len(summary) :] = tokens[len(prompt) :]
        return PairBatch(ids, mask, labels)
