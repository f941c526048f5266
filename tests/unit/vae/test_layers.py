"""The layers of the VAE, compared with their definitions."""

import pytest
import torch
from torch import nn

from cogvideox.vae.causal_conv import ConvCache
from cogvideox.vae.layers import LatentNorm, PointwiseConv3d, source_frames


def test_pointwise_convolution_equals_conv3d():
    conv = PointwiseConv3d(3, 5)
    x = torch.randn(2, 3, 4, 5, 6)
    torch.testing.assert_close(conv(x), nn.functional.conv3d(x, conv.weight, conv.bias))


@pytest.mark.parametrize(
    ("num_frames", "num_latents", "is_first", "expected"),
    [
        (9, 3, True, [0, 1, 1, 1, 1, 2, 2, 2, 2]),
        (5, 3, True, [0, 1, 1, 2, 2]),
        (3, 3, True, [0, 1, 2]),
        (5, 2, True, [0, 1, 1, 1, 1]),
        (1, 1, True, [0]),
        (8, 2, False, [0, 0, 0, 0, 1, 1, 1, 1]),
        (2, 2, False, [0, 1]),
        (4, 1, False, [0, 0, 0, 0]),
    ],
)
def test_source_frames_map_features_to_latents_in_first_and_later_chunks(num_frames, num_latents, is_first, expected):
    assert source_frames(num_frames, num_latents, is_first).tolist() == expected


@pytest.mark.parametrize(("num_latents", "num_frames"), [(1, 1), (3, 5), (3, 9)])
def test_latent_norm_equals_modulation_by_upsampled_latents(num_latents, num_frames):
    """By definition, latents are upsampled to the size of the features before the 1x1x1 convolutions."""
    norm = LatentNorm(8, 4, num_groups=2)
    nn.init.normal_(norm.norm.weight)
    x, latents = torch.randn(2, 8, num_frames, 8, 12), torch.randn(2, 4, num_latents, 2, 3)
    upsampled = latents[:, :, source_frames(num_frames, num_latents, True)]
    upsampled = upsampled.repeat_interleave(4, dim=3).repeat_interleave(4, dim=4)
    scale, shift = norm.modulation(upsampled).chunk(2, dim=1)
    torch.testing.assert_close(norm(x, latents, ConvCache()), norm.norm(x) * scale + shift)
