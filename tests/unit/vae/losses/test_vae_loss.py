"""The KL divergence of the posterior, the terms of the VAE's loss, and PSNR."""

import math

import pytest
import torch

from cogvideox.evaluation.reconstruction.metrics import psnr
from cogvideox.vae.config import LossWeights
from cogvideox.vae.losses.vae_loss import vae_loss
from cogvideox.vae.posterior import Posterior


def test_kl_of_a_standard_normal_is_zero():
    posterior = Posterior.from_moments(torch.zeros(2, 8, 1, 2, 2))
    assert posterior.kl().tolist() == [0.0, 0.0]


def test_log_variance_is_clamped():
    assert Posterior.from_moments(torch.full((1, 2, 1, 1, 1), 99.0)).logvar.item() == 20.0


def test_loss_is_the_weighted_sum_of_its_terms():
    target = torch.zeros(1, 3, 1, 2, 2)
    posterior = Posterior(torch.ones(1, 4, 1, 1, 1), torch.zeros(1, 4, 1, 1, 1))
    total, terms = vae_loss(target + 0.5, target, posterior, LossWeights(l1=1.0, l2=2.0, kl=10.0))
    assert terms["l1"].item() == 0.5 and terms["l2"].item() == 0.25 and terms["kl"].item() == 0.5
    assert total.item() == pytest.approx(0.5 + 2 * 0.25 + 10 * 0.5)


def test_psnr_is_relative_to_a_range_of_2():
    target = torch.zeros(1, 3, 1, 2, 2)
    assert psnr(target + 0.2, target).item() == pytest.approx(10 * math.log10(4 / 0.04), abs=1e-3)
