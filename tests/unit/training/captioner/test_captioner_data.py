"""Frames of clips that are kept in memory."""

import torch

from cogvideox.training.captioner.captioner_data import FrameCache


def test_frames_are_kept_up_to_a_number_of_bytes():
    cache, read = FrameCache(100), []

    def get(key, size=40):
        return cache.get(key, lambda: read.append(key) or torch.zeros(size, dtype=torch.uint8))

    for key in "abacab":  # c replaces b, which was used before a
        assert len(get(key)) == 40
    assert read == ["a", "b", "c", "b"] and cache.num_bytes == 80
    assert len(get("d", 200)) == 200 and cache.num_bytes == 0
