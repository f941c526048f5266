"""Samplers on a GPU do not synchronize with the CPU."""

import pytest
import torch

from cogvideox.diffusion.samplers import SAMPLERS, initial_noise
from cogvideox.diffusion.schedule import Schedule
from cogvideox.diffusion.timesteps import trailing

SCHEDULE = Schedule()


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_do_not_synchronize_with_the_gpu(name):
    def generate(device):
        generator = torch.Generator().manual_seed(0)
        noise = initial_noise((2, 4, 3, 5, 6), generator, device)
        return SAMPLERS[name](lambda x, t, i: torch.sin(x + t), noise, trailing(4), SCHEDULE, generator=generator)

    torch.cuda.set_sync_debug_mode("error")
    try:
        sample = generate("cuda")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(sample.cpu(), generate("cpu"))
