import pytest
import torch

from cogvideox.transformer.image_conditioning import add_image_noise


def test_image_noise_is_log_normal_and_seeded_by_the_key():
    """The log of the scale has mean -3 and standard deviation 0.5."""
    image = torch.zeros(3, 1, 16, 16)
    copies = add_image_noise(image, 1000, "0123456789abcdef")
    scales = copies.flatten(1).std(1).log()
    assert scales.mean() == pytest.approx(-3.0, abs=0.05) and scales.std() == pytest.approx(0.5, abs=0.05)
    assert torch.equal(copies[:2], add_image_noise(image, 1000, "0123456789abcdef")[:2])
    assert not torch.equal(copies[:2], add_image_noise(image, 1000, "1123456789abcdef")[:2])
