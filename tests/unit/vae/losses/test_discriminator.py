"""The discriminator: shapes, causality, losses and the adaptive weight."""

import pytest
import torch
from torch import nn

from cogvideox.errors import UserError
from cogvideox.vae.causal_conv import StreamingCache
from cogvideox.vae.config import DiscriminatorConfig
from cogvideox.vae.losses.discriminator import Discriminator, adaptive_weight, generator_loss, hinge_loss, init_weights


@pytest.fixture(scope="module")
def discriminator() -> Discriminator:
    net = Discriminator(DiscriminatorConfig(width=4, max_width=8))
    init_weights(net, torch.Generator().manual_seed(0))
    for parameter in net.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, std=0.1)
    return net


def test_images_and_clips_have_one_logit_per_patch(discriminator):
    for num_frames, num_latents in ((1, 1), (5, 2), (9, 3), (17, 5)):
        assert discriminator(torch.randn(2, 3, num_frames, 16, 24)).shape == (2, 1, num_latents, 2, 3)


def test_logits_are_causal_and_independent_of_the_batch(discriminator):
    video = torch.randn(2, 3, 9, 16, 16)
    changed = video.clone()
    changed[:, :, 5:] += 1.0
    before, after = discriminator(video), discriminator(changed)
    torch.testing.assert_close(after[:, :, :2], before[:, :, :2])
    assert not torch.allclose(after[:, :, 2], before[:, :, 2])
    torch.testing.assert_close(discriminator(video[:, :, :1]), before[:, :, :1])
    torch.testing.assert_close(discriminator(video[:1]), before[:1])


def test_chunks_with_a_streaming_cache_equal_a_single_call(discriminator):
    video, conv_cache, parts = torch.randn(1, 3, 13, 16, 16), StreamingCache(), []
    for index, chunk in enumerate(video.split([5, 4, 4], dim=2)):
        parts.append(discriminator(chunk, conv_cache))
        conv_cache.advance(is_last=index == 1)
    torch.testing.assert_close(torch.cat(parts, dim=2), discriminator(video))


def test_initial_logits_are_near_the_hinge_margin():
    net = Discriminator(DiscriminatorConfig(width=8))
    init_weights(net, torch.Generator().manual_seed(0))
    assert 0.05 < net(torch.rand(2, 3, 9, 32, 32) * 2 - 1).std() < 2.0


def test_hinge_losses_equal_their_definitions():
    real, fake = torch.tensor([2.0, 0.0]).view(2, 1, 1, 1, 1), torch.tensor([-3.0, 0.5]).view(2, 1, 1, 1, 1)
    assert hinge_loss(real, fake).item() == (0.5 + 0.75) / 2
    assert generator_loss(fake).item() == 1.25


def test_discriminator_learns_to_separate_sharp_from_blurred_clips():
    generator = torch.Generator().manual_seed(0)
    net = Discriminator(DiscriminatorConfig(width=4))
    init_weights(net, generator)
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    for _ in range(30):
        sharp = torch.randn(4, 3, 5, 16, 16, generator=generator)
        blurred = nn.functional.avg_pool3d(sharp, (1, 3, 3), stride=1, padding=(0, 1, 1))
        loss = hinge_loss(net(sharp), net(blurred))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.3


@pytest.mark.parametrize("magnitude", [1e-6, 1.0, 1e6])
def test_adaptive_weight_equalizes_gradient_norms_up_to_its_maximum(magnitude):
    layer, x = nn.Conv3d(4, 3, 1), torch.randn(1, 4, 2, 3, 3)
    reconstruction = layer(x)
    reconstruction_grad, gan_grad = torch.randn_like(reconstruction), torch.randn_like(reconstruction) * magnitude
    weight = adaptive_weight(reconstruction, layer.weight, reconstruction_grad, gan_grad)
    norms = [
        torch.autograd.grad(reconstruction, layer.weight, gradient, retain_graph=True)[0].norm().item()
        for gradient in (reconstruction_grad, weight * gan_grad)
    ]
    if magnitude >= 1:
        assert norms[1] == pytest.approx(norms[0], rel=1e-3)
    else:
        assert weight.item() == pytest.approx(1e4, rel=0.1)
    assert not weight.requires_grad


def test_adaptive_weight_of_zero_gradients_is_zero():
    layer = nn.Conv3d(1, 3, 1)
    reconstruction = layer(torch.ones(1, 1, 1, 2, 2))
    zero = torch.zeros_like(reconstruction)
    assert adaptive_weight(reconstruction, layer.weight, zero, zero).item() == 0.0


@pytest.mark.parametrize("sizes", [{"width": 0}, {"num_levels": 0}, {"num_temporal_levels": 3}, {"num_levels": 1}])
def test_invalid_sizes_are_rejected(sizes):
    with pytest.raises(UserError, match=r"of the discriminator"):
        DiscriminatorConfig(**sizes)
