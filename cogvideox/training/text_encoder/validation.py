"""Validation of a text encoder: the loss on held-out captions, and whether it knows words, their order and who does
what."""

import torch

from cogvideox.text.tokenizer import EOS_ID, Tokenizer
from cogvideox.training.config import HELD_OUT_SEED
from cogvideox.training.text_encoder.config import TextEncoderTraining
from cogvideox.training.text_encoder.data import TextBatch, make_batch, padded
from cogvideox.training.text_encoder.decoder import SpanCorruptionModel

CONTRASTS = {
    "word_order": (
        ("a red ball moves from left to right", "a red ball moves from right to left", "a red ball moves right"),
        ("a red ball moves from right to left", "a red ball moves from left to right", "a red ball moves left"),
        ("a small cube sliding from left to right", "a small cube sliding from right to left", "a cube goes rightward"),
        ("a small cube sliding from right to left", "a small cube sliding from left to right", "a cube goes leftward"),
        ("a cone goes from top to bottom", "a cone goes from bottom to top", "a cone moves down"),
        ("a cone goes from bottom to top", "a cone goes from top to bottom", "a cone moves up"),
    ),
    "colors_of_two_toys": (
        ("a red cube and a blue ball", "a blue cube and a red ball", "a blue ball and a red cube"),
        ("a blue cube and a red ball", "a red cube and a blue ball", "a red ball and a blue cube"),
        ("a green cone and an orange cube", "an orange cone and a green cube", "an orange cube and a green cone"),
        ("a yellow ball and a purple ball", "a yellow ball and a red ball", "a purple ball and a yellow ball"),
    ),
    "motions_of_two_toys": (
        (
            "a red cube moves left and a blue ball stays still",
            "a red cube stays still and a blue ball moves left",
            "a blue ball stays still and a red cube moves left",
        ),
        (
            "a green cone moves up and a small purple cube moves down",
            "a green cone moves down and a small purple cube moves up",
            "a small purple cube moves down and a green cone moves up",
        ),
    ),
    "synonyms": (
        ("a crimson orb on a pink floor", "a violet orb on a pink floor", "a red ball on a pink floor"),
        ("an emerald block rises", "an emerald block falls", "a green cube moves up"),
        ("a tiny golden crate", "a huge golden crate", "a small yellow cube"),
    ),
}
"""Triples by what they test: a caption, a caption with another meaning, and a paraphrase of the first."""


@torch.no_grad()
def validate(model: SpanCorruptionModel, tokenizer: Tokenizer, settings: TextEncoderTraining) -> dict[str, float]:
    """Score the model.

    Returns:
        `validation/loss` on held-out documents; and for each group of `CONTRASTS` the share of triples for which the
        paraphrase is more likely after the caption than after the one with another meaning.
    """
    device = next(model.parameters()).device
    size = settings.run.batch_size
    losses = []
    for step in range(-(-settings.num_held_out // size)):
        losses.append(model(*_to(make_batch(settings, tokenizer, step, HELD_OUT_SEED), device)))
    scores = {"validation/loss": torch.cat(losses)[: settings.num_held_out].mean().item()}
    for name, triples in CONTRASTS.items():
        right = [
            model(*_to(paraphrase_batch(settings, tokenizer, a, b, a_in_words), device)) for a, b, a_in_words in triples
        ]
        scores[f"validation/{name}"] = torch.stack([of_a < of_b for of_a, of_b in right]).float().mean().item()
    return scores


def paraphrase_batch(
    settings: TextEncoderTraining, tokenizer: Tokenizer, one: str, other: str, paraphrase: str
) -> TextBatch:
    """The documents "one + removed paraphrase" and "other + removed paraphrase"."""
    length, sentinel = settings.text_length, len(tokenizer) - 1
    sources = [[*tokenizer.token_ids(text), sentinel, EOS_ID] for text in (one, other)]
    target = [sentinel, *tokenizer.token_ids(paraphrase), EOS_ID]
    return TextBatch(padded(sources, length), padded([target, target], length + 2))


def _to(batch: TextBatch, device: torch.device) -> TextBatch:
    return TextBatch(batch.source.to(device), batch.target.to(device))
