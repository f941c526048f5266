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
    "colors_of_two_toys": tuple(
        (
            f"a {first} {shape} and a {second} {other}",
            f"a {second} {shape} and a {first} {other}",
            f"a {second} {other} and a {first} {shape}",
        )
        for first, second in (("red", "blue"), ("green", "purple"), ("yellow", "red"), ("blue", "green"))
        for shape, other in (("cube", "ball"), ("ball", "cone"), ("cone", "cube"))
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
