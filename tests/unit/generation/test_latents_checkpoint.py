"""Latents checkpoints are used only for the request from which they were saved."""

import pytest
import torch

from cogvideox.generation.latents_checkpoint import LatentsCheckpoint


def test_latents_and_the_generator_state_are_restored(tmp_path):
    generator = torch.Generator().manual_seed(5)
    latents = torch.randn(1, 4, 3, 2, 2, generator=generator)
    LatentsCheckpoint(tmp_path / "x.latents.safetensors", {"seed": 5}).put(0, latents, generator)
    next_values = torch.randn(3, generator=generator)

    repeated = LatentsCheckpoint(tmp_path / "x.latents.safetensors", {"seed": 5})
    other = torch.Generator()
    assert repeated.get(1, other) is None
    assert torch.equal(repeated.get(0, other), latents)
    assert torch.equal(torch.randn(3, generator=other), next_values)
    assert LatentsCheckpoint(tmp_path / "x.latents.safetensors", {"seed": 6}).get(0, other) is None


def test_a_file_that_cannot_be_written_is_a_warning(tmp_path):
    (tmp_path / "file").write_text("")
    checkpoint = LatentsCheckpoint(tmp_path / "file" / "x.latents.safetensors", {})
    with pytest.warns(UserWarning, match="could not save"):
        checkpoint.put(0, torch.zeros(1, 1, 1, 1, 1), torch.Generator())
