"""Validation of a text encoder: the loss on held-out captions, and contrast tests of synonyms, word order and
attribute binding."""

import torch

from cogvideox.text.tokenizer import EOS_ID, Tokenizer
from cogvideox.training.config import HELD_OUT_SEED
from cogvideox.training.text_encoder.config import TextEncoderTraining
from cogvideox.training.text_encoder.data import TextBatch, make_batch, pad
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
"""Contrast tests by topic: triples of a caption, a distractor with a different meaning, and a paraphrase."""


@torch.no_grad()
def validate(model: SpanCorruptionModel, tokenizer: Tokenizer, settings: TextEncoderTraining) -> dict[str, float]:
    """Score the model.

    Returns:
        `validation/loss` on held-out documents; and for each topic of `CONTRASTS` the fraction of triples whose
        paraphrase is more likely after the caption than after the distractor.
    """
    device = next(model.parameters()).device
    size = settings.run.batch_size
    losses = []
    for step in range(-(-settings.num_held_out // size)):
        losses.append(model(*_to(make_batch(settings, tokenizer, step, HELD_OUT_SEED), device)))
    scores = {"validation/loss": torch.cat(losses)[: settings.num_held_out].mean().item()}
    for name, triples in CONTRASTS.items():
        triple_losses = [model(*_to(paraphrase_batch(settings, tokenizer, *triple), device)) for triple in triples]
        correct = [after_caption < after_distractor for after_caption, after_distractor in triple_losses]
        scores[f"validation/{name}"] = torch.stack(correct).float().mean().item()
    return scores


def paraphrase_batch(
    settings: TextEncoderTraining, tokenizer: Tokenizer, caption: str, distractor: str, paraphrase: str
) -> TextBatch:
    """Return two documents: the caption and the distractor, each followed by the removed paraphrase."""
    length, sentinel = settings.text_length, len(tokenizer) - 1
    sources = [[*tokenizer.token_ids(prompt), sentinel, EOS_ID] for prompt in (caption, distractor)]
    target = [sentinel, *tokenizer.token_ids(paraphrase), EOS_ID]
    return TextBatch(pad(sources, length), pad([target, target], length + 2))


def _to(batch: TextBatch, device: torch.device) -> TextBatch:
    return TextBatch(batch.source.to(device), batch.target.to(device))
