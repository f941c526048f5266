from collections import Counter

import torch

from cogvideox.training.rng import clip_indices, numpy_generator, torch_generator


def test_every_clip_occurs_once_per_epoch():
    indices = [index for step in range(21) for index in clip_indices(0, step, 4, 12)]
    epochs = [indices[start : start + 12] for start in range(0, 84, 12)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_batches_may_span_epochs():
    counts = Counter(index for step in range(10) for index in clip_indices(0, step, 7, 10))
    assert set(counts.values()) == {7}


def test_random_numbers_depend_only_on_purpose_seed_and_step():
    def sample(purpose: str, seed: int, step: int) -> tuple[float, float]:
        return (
            torch.rand((), generator=torch_generator(purpose, seed, step)).item(),
            numpy_generator(purpose, seed, step).random(),
        )

    assert sample("noise", 1, 2) == sample("noise", 1, 2)
    different = [sample("noise", 1, 2), sample("noise", 2, 1), sample("noise", 1, 3), sample("posterior", 1, 2)]
    assert len(set(different)) == 4
