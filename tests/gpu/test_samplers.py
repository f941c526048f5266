import pytest
import torch

from cogvideox.diffusion.samplers import SAMPLERS, initial_noise
from cogvideox.diffusion.schedule import Schedule
from cogvideox.diffusion.timesteps import trailing

SCHEDULE = Schedule()


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_loop_never_waits_for_the_gpu(name):
    def generate(device):
        generator = torch.Generator().manual_seed(0)
        start = initial_noise((2, 4, 3, 5, 6), generator, device)
        times = trailing(4)
        return SAMPLERS[name](lambda x, t, i: torch.sin(x + t), start, times, SCHEDULE, generator=generator)

    torch.cuda.set_sync_debug_mode("error")
    try:
        end = generate("cuda")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(end.cpu(), generate("cpu"))
