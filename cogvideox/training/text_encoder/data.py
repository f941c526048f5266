"""Documents and span corruption (Raffel et al. 2020, section 3.1.4).

A document is one caption, or two captions of the same scene. In a single caption, random spans are replaced by
sentinels. Of two captions, single tokens of the second or the whole second caption are removed. Because the wordings of
the captions differ, predicting them from the first requires the meaning of words, their order, and which toy has which
color.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from cogvideox.text.tokenizer import EOS_ID, PAD_ID, Tokenizer, train_toy_tokenizer
from cogvideox.toybox.captions.caption import caption_scene, caption_words
from cogvideox.toybox.scenes.grammar import Scene
from cogvideox.toybox.scenes.sampler import sample_scene
from cogvideox.training.rng import numpy_generator
from cogvideox.training.text_encoder.config import TextEncoderTraining


class TextBatch(NamedTuple):
    """Token ids of corrupted documents, and of the removed spans."""

    source: Int[Tensor, "b m"]
    target: Int[Tensor, "b n"]


def build_tokenizer(settings: TextEncoderTraining) -> Tokenizer:
    """Build a tokenizer with all words of the grammars and of free captions."""
    return train_toy_tokenizer(caption_words("pair"), settings.model.vocab_size, settings.num_sentinels)


def make_batch(settings: TextEncoderTraining, tokenizer: Tokenizer, step: int, first_seed: int = 0) -> TextBatch:
    """Make the batch of step `step` (0-based). Every step has new scenes."""
    size, length = settings.run.batch_size, settings.text_length
    rng = numpy_generator("caption", settings.run.seed + first_seed, step)
    sources, targets = [], []
    for i in range(size):
        fixed: dict[str, Any] = {"count": "two"} if rng.random() < settings.two_toy_fraction else {}
        scene = sample_scene(first_seed + step * size + i, "pair", split="training", **fixed)
        is_image = rng.random() < 0.1
        pair = [_caption(scene, settings, rng, is_image) for _ in range(2)]
        first, second = (tokenizer.token_ids(caption) for caption in pair)
        sentinel = len(tokenizer) - 1
        sentinels = range(sentinel, sentinel - settings.num_sentinels, -1)
        u = rng.random()
        if u < settings.paired_fraction and len(first) + len(second) < length:
            source, target = corrupt(second, settings.paired_corruption_rate, 1.0, sentinels, rng)
            source = [*first, *source]
        elif u < settings.paired_fraction + settings.paraphrase_fraction and max(len(first) + 2, len(second)) <= length:
            source, target = [*first, sentinel], [sentinel, *second]
        else:
            source, target = corrupt(first, settings.corruption_rate, settings.mean_span_length, sentinels, rng)
        sources.append([*source, EOS_ID])
        targets.append([*target, EOS_ID])
    return TextBatch(pad(sources, length), pad(targets, length + 2))


def corrupt(
    ids: Sequence[int], rate: float, mean_span_length: float, sentinels: Sequence[int], rng: np.random.Generator
) -> tuple[list[int], list[int]]:
    """Replace random, non-adjacent spans of `ids` by sentinels, each sentinel at most once.

    Args:
        rate: fraction of tokens to remove.

    Returns:
        The corrupted ids; and the removed spans, each after its sentinel.
    """
    num_removed = max(1, round(rate * len(ids)))
    num_spans = max(1, round(num_removed / mean_span_length))
    num_spans = min(num_spans, len(sentinels), len(ids) - num_removed + 1)
    # The first and the last gap may be empty, so they are sampled with one extra token each.
    spans = _random_lengths(num_removed, num_spans, rng)
    gaps = _random_lengths(len(ids) - num_removed + 2, num_spans + 1, rng)
    source, target, position = [], [], 0
    for i, (gap, span, sentinel) in enumerate(zip(gaps, spans, sentinels)):
        start = position + gap - (i == 0)
        source += [*ids[position:start], sentinel]
        target += [sentinel, *ids[start : start + span]]
        position = start + span
    return [*source, *ids[position:]], target


def _random_lengths(total: int, count: int, rng: np.random.Generator) -> list[int]:
    """Sample `count` random lengths of at least 1 with the sum `total`."""
    cuts = np.sort(rng.choice(total - 1, count - 1, replace=False) + 1)
    return np.diff([0, *cuts, total]).tolist()


def _caption(scene: Scene, settings: TextEncoderTraining, rng: np.random.Generator, image: bool) -> str:
    style = settings.caption_styles[int(rng.integers(len(settings.caption_styles)))]
    return caption_scene(scene, style, int(rng.integers(2**31)), image=image)


def pad(rows: Sequence[Sequence[int]], length: int) -> Int[Tensor, "b n"]:
    """Convert rows of token ids to a tensor, padded to `length`."""
    padded = torch.full((len(rows), length), PAD_ID, dtype=torch.long)
    for row, ids in zip(padded, rows):
        row[: len(ids)] = torch.tensor(ids)
    return padded
