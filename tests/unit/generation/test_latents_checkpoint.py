"""Latents that are finished are found again by the request that they are of, and by no other."""

import pytest
import torch

from cogvideox.generation.latents_checkpoint import Finished


def test_they_are_found_again_with_the_random_numbers_that_follow(tmp_path):
    generator = torch.Generator().manual_seed(5)
    latents = torch.randn(1, 4, 3, 2, 2, generator=generator)
    Finished(tmp_path / "x.latents.safetensors", {"seed": 5}).put(0, latents, generator)
    following = torch.randn(3, generator=generator)

    again = Finished(tmp_path / "x.latents.safetensors", {"seed": 5})
    other = torch.Generator()
    assert again.get(1, other) is None
    assert torch.equal(again.get(0, other), latents)
    assert torch.equal(torch.randn(3, generator=other), following)
    assert Finished(tmp_path / "x.latents.safetensors", {"seed": 6}).get(0, other) is None


def test_a_disk_that_refuses_is_warned_of(tmp_path):
    (tmp_path / "file").write_text("")
    finished = Finished(tmp_path / "file" / "x.latents.safetensors", {})
    with pytest.warns(UserWarning, match="not kept"):
        finished.put(0, torch.zeros(1, 1, 1, 1, 1), torch.Generator())
