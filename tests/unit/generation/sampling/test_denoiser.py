"""The prediction function of samplers: bound transformer, windows and known frames.

See also `tests/gpu/test_speed.py`.
"""

import pytest
import torch

from cogvideox.diffusion.samplers import SAMPLERS, initial_noise
from cogvideox.diffusion.schedule import Schedule
from cogvideox.generation.sampling import denoiser as module
from cogvideox.generation.sampling.denoiser import BoundTransformer, Denoiser, fits_graph, window_weights
from cogvideox.transformer.model import Transformer
from tests import tiny


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("variant", ["2b", "5b"])
def test_bound_transformer_equals_the_transformer(variant, small, monkeypatch):
    monkeypatch.setattr(module, "MAX_GRAPH_FLOPS", 2e11 if small else 0)
    torch.manual_seed(0)
    model = Transformer(tiny.TRANSFORMERS[variant]).requires_grad_(False)
    latents, text, times = torch.randn(2, 4, 2, 4, 6), torch.randn(2, 12, 32), torch.tensor([900, 100])
    options = {"device": torch.device("cpu"), "dtype": torch.float32}
    bound = BoundTransformer(model, times.tolist(), Schedule(), (2, 4, 6), num_text=12, rule=None, **options)
    assert bound.num_tokens == 12 + 2 * 2 * 3
    for step, time in enumerate(times):
        torch.testing.assert_close(bound(latents, text, step), model(latents, text, time.expand(2)))


def test_blocks_with_hooks_are_not_recorded():
    model = Transformer(tiny.TRANSFORMERS["2b"])
    assert fits_graph(model, 24)
    model.blocks[1].register_forward_pre_hook(lambda block, args: None)
    assert not fits_graph(model, 24)


@pytest.mark.parametrize("sampler", ["ddim", "dpm++"])
def test_known_frames_are_noised_for_the_network_and_exact_in_the_result(pipes, sampler):
    schedule, generator = pipes["5b"].model.schedule, torch.Generator().manual_seed(0)
    known, noise = torch.randn(1, 4, 2, 3, 3), initial_noise((1, 4, 5, 3, 3), generator)
    times, states = [999, 600, 300, 50], []

    def model(x, prompts, i):
        states.append((x[:, :, :2], schedule.alphas_cumprod[times[i]].item()))
        return torch.zeros_like(x)

    denoiser = Denoiser([model], torch.zeros(1, 1, 1), known=known, schedule=schedule)
    end = SAMPLERS[sampler](denoiser, noise, times, schedule, generator=generator)
    torch.testing.assert_close(end[:, :, :2], known, atol=1e-4, rtol=0)
    if sampler == "ddim":  # DDIM adds no noise
        for x, abar in states:
            torch.testing.assert_close(x, abar**0.5 * known + (1 - abar) ** 0.5 * noise[:, :, :2], atol=1e-4, rtol=0)


def test_windows_of_a_framewise_model_equal_a_single_pass():
    """If the velocity of a frame depends on that frame only, windows do not change it."""
    x = torch.randn(1, 2, 10, 3, 3)
    windows = [range(4), range(2, 6), range(5, 9), range(6, 10)]
    models = [lambda x, prompts, i: torch.sin(x) + i] * 4
    denoiser = Denoiser(models, torch.zeros(1, 1, 1), windows=windows, weights=window_weights(windows))
    torch.testing.assert_close(denoiser(x, 0, 3), torch.sin(x) + 3)
    assert torch.equal(Denoiser(models[:1], torch.zeros(1, 1, 1), windows=[range(10)])(x, 0, 3), torch.sin(x) + 3)


@pytest.mark.parametrize(("patch_t", "second"), [(1, [0, 0, 1 / 2, 2 / 3, 1]), (2, [0, 0, 0, 2 / 3, 1])])
def test_the_first_patch_of_later_windows_is_only_context(patch_t, second):
    """`second`: weight of the second of two windows for each frame."""
    windows = [range(4), range(1, 5)]
    models = [lambda x, prompts, i: torch.zeros_like(x), lambda x, prompts, i: torch.ones_like(x)]
    weights = window_weights(windows, patch_t)
    denoiser = Denoiser(models, torch.zeros(1, 1, 1), windows=windows, weights=weights)
    assert denoiser(torch.zeros(1, 1, 5, 1, 1), 0, 0).flatten().tolist() == pytest.approx(second)
