import math

import pytest
import torch
from torch import nn

from cogvideox.vae.config import LossWeights
from cogvideox.vae.layers import LatentNorm, PointwiseConv3d, source_frames
from cogvideox.vae.loss import psnr, vae_loss
from cogvideox.vae.posterior import Posterior
from cogvideox.vae.stream import FirstFrame, Stream


def test_pointwise_convolution_is_a_convolution():
    conv = PointwiseConv3d(3, 5)
    x = torch.randn(2, 3, 4, 5, 6)
    torch.testing.assert_close(conv(x), nn.functional.conv3d(x, conv.weight, conv.bias))


def test_source_frames():
    assert source_frames(9, 3, holds_first=True) == [0, 1, 1, 1, 1, 2, 2, 2, 2]
    assert source_frames(8, 2, holds_first=False) == [0, 0, 0, 0, 1, 1, 1, 1]
    assert source_frames(1, 1, holds_first=True) == [0]
    assert source_frames(3, 3, holds_first=True) == [0, 1, 2]


@pytest.mark.parametrize(("num_latents", "num_frames"), [(1, 1), (3, 5), (3, 9)])
def test_latent_norm_is_the_norm_of_upsampled_latents(num_latents, num_frames):
    """Against the definition: upsample the latents to the features, then apply the 1x1x1 convolutions."""
    norm = LatentNorm(8, 4, num_groups=2)
    nn.init.normal_(norm.norm.weight)
    x, latents = torch.randn(2, 8, num_frames, 8, 12), torch.randn(2, 4, num_latents, 2, 3)
    spread = latents[:, :, source_frames(num_frames, num_latents, True)]
    spread = spread.repeat_interleave(4, dim=3).repeat_interleave(4, dim=4)
    scale, shift = norm.modulation(spread).chunk(2, dim=1)
    torch.testing.assert_close(norm(x, latents, FirstFrame()), norm.norm(x) * scale + shift)


def test_a_stream_hands_on_its_tail():
    layer, stream = nn.Identity(), Stream()
    clip = torch.arange(6.0).view(1, 1, 6, 1, 1)
    assert stream.extend(layer, clip[:, :, :2], 2).flatten().tolist() == [0, 0, 0, 1]
    stream.advance()
    assert stream.extend(layer, clip[:, :, 2:3], 2).flatten().tolist() == [0, 1, 2]
    assert stream.extend(layer, clip[:, :, 3:], 2).flatten().tolist() == [1, 2, 3, 4, 5]


def test_posterior_of_a_standard_normal_has_no_divergence():
    posterior = Posterior.from_moments(torch.zeros(2, 8, 1, 2, 2))
    assert posterior.kl().tolist() == [0.0, 0.0]
    assert Posterior.from_moments(torch.full((1, 2, 1, 1, 1), 99.0)).logvar.item() == 20.0


def test_loss_terms():
    target = torch.zeros(1, 3, 1, 2, 2)
    posterior = Posterior(torch.ones(1, 4, 1, 1, 1), torch.zeros(1, 4, 1, 1, 1))
    total, terms = vae_loss(target + 0.5, target, posterior, LossWeights(l1=1.0, l2=2.0, kl=10.0))
    assert terms["l1"].item() == 0.5 and terms["l2"].item() == 0.25 and terms["kl"].item() == 0.5
    assert total.item() == pytest.approx(0.5 + 2 * 0.25 + 10 * 0.5)
    assert psnr(target + 0.2, target).item() == pytest.approx(10 * math.log10(4 / 0.04), abs=1e-3)
