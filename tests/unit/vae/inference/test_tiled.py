"""Tiling: cutting, joining and errors. `tests/parity` compares values with diffusers."""

import pytest
import torch

from cogvideox.errors import UserError
from cogvideox.vae.inference.tiled import Tiling


@pytest.mark.parametrize("size", [(6, 10), (7, 9), (3, 4), (1, 1)])
def test_join_inverts_cut(size):
    """Overlapping tiles with equal values blend to the original."""
    plan = Tiling(height=32, width=40, overlap_height=0.25, overlap_width=0.2).plan(8)
    assert (plan.size, plan.stride) == ((4, 5), (3, 4))
    x = torch.randn(1, 2, 3, *size)
    torch.testing.assert_close(plan.join(plan.cut(x, 1), 1), x)


def test_default_tile_size_and_stride_in_latent_cells():
    plan = Tiling().plan(8)
    assert (plan.size, plan.stride) == ((30, 45), (25, 36))
    assert plan.covers(torch.zeros(1, 1, 1, 30, 45), 1) and not plan.covers(torch.zeros(1, 1, 1, 30, 46), 1)
    assert plan.covers(torch.zeros(1, 1, 1, 240, 360), 8)


def test_empty_tiles_and_invalid_overlaps_are_rejected():
    with pytest.raises(UserError, match="0x360 pixels is empty"):
        Tiling(height=0)
    with pytest.raises(UserError, match=r"overlap of 1.0 must be in \[0, 1\)"):
        Tiling(overlap_width=1.0)
