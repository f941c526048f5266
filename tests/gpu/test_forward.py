"""The networks give on a GPU what they give on the CPU, in float32 and, roughly, in bfloat16."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cogvideox import CogVideoX
from cogvideox.text.encoder import T5Encoder
from cogvideox.training.toybox.trainer import build_model
from cogvideox.transformer.model import Transformer
from cogvideox.vae.init_weights import init_weights
from cogvideox.vae.model import CausalVAE
from tests import tiny_runs
from tests.tiny import TEXT_LENGTH, TRANSFORMERS

Forward = Callable[[nn.Module, torch.device], Tensor]


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))


def moved_away(model: nn.Module) -> nn.Module:
    """With gates that are shut at first, only half of a network would be seen."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval().requires_grad_(False)


def reconstruct(vae: CausalVAE, device: torch.device) -> Tensor:
    """Of 17 frames, which go through encoder and decoder in two chunks."""
    return vae.decode(vae.encode(random(2, 3, 17, 16, 24).to(device)).mean)


def predict(transformer: Transformer, device: torch.device) -> Tensor:
    timestep = torch.tensor([3, 999], device=device)
    return transformer(random(2, 4, 2, 2, 2).to(device), random(2, 24, 16).to(device), timestep)


def read(encoder: T5Encoder, device: torch.device) -> Tensor:
    return encoder(torch.arange(2 * 24, device=device).view(2, 24))


@pytest.fixture(params=["vae", "transformer", "text"])
def network(request, tmp_path) -> tuple[nn.Module, Forward]:
    if request.param == "vae":
        vae = CausalVAE(tiny_runs.VAE)
        init_weights(vae, torch.Generator().manual_seed(0))
        return vae.eval().requires_grad_(False), reconstruct
    model = build_model(tiny_runs.toybox_run(tmp_path))
    return (moved_away(model.transformer), predict) if request.param == "transformer" else (model.text_encoder, read)


def test_float32(network):
    model, forward = network
    expected = forward(model, torch.device("cpu"))
    found = forward(copy.deepcopy(model).cuda(), torch.device("cuda"))
    print(f"largest difference: {(found.cpu() - expected).abs().max() / expected.abs().max():.2g} of the largest value")
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())


def test_bfloat16(network):
    """Each of a chain of products keeps 8 bits, so the result is off by a few per cent of its size."""
    model, forward = network
    expected = forward(model, torch.device("cpu"))
    with torch.autocast("cuda", torch.bfloat16):
        found = forward(copy.deepcopy(model).cuda(), torch.device("cuda"))
    error = ((found.cpu().float() - expected).norm() / expected.norm()).item()
    print(f"relative error in bfloat16: {error:.2g}")
    assert error < 0.05


def test_packed_clips_are_separate_clips():
    """In bfloat16, where CUDA has a kernel for segments: losses and gradients, from rows of clips of three sizes."""
    model = moved_away(Transformer(TRANSFORMERS["5b"])).requires_grad_().cuda()
    clips = [random(4, t, h, w).cuda() for t, h, w in ((1, 4, 6), (3, 4, 6), (2, 6, 4))]
    text, timestep = random(3, TEXT_LENGTH, 32).cuda(), torch.tensor([3, 500, 999], device="cuda")
    results = []
    for packed in (True, False):
        with torch.autocast("cuda", torch.bfloat16):
            alone = (model(clip[None], text[i : i + 1], timestep[i : i + 1])[0] for i, clip in enumerate(clips))
            predicted = model.forward_packed(clips, text, timestep) if packed else list(alone)
        loss = sum(v.float().square().mean() for v in predicted)
        results.append([loss, *torch.autograd.grad(loss, list(model.parameters()))])
    largest = max(expected.abs().max() for expected in results[1][1:])
    errors = [((a - b).abs().max() / max(b.abs().max(), 0.1 * largest)).item() for a, b in zip(*results)]
    print(f"packed and separate clips: loss {errors[0]:.2g}, gradients {max(errors[1:]):.2g}")
    assert max(errors) < 0.05


def test_a_seed_means_the_same_video():
    """The shipped model, in float32: levels of 0 to 255 differ by rounding alone."""

    def frames(device: str) -> np.ndarray:
        pipe = CogVideoX.from_pretrained("toybox", device=device, dtype="float32")
        return pipe.generate("a red ball moves right on a white floor", seed=0, num_inference_steps=5).frames

    difference = np.abs(frames("cuda").astype(int) - frames("cpu").astype(int))
    print(f"levels of 0 to 255: largest difference {difference.max()}, mean {difference.mean():.2g}")
    assert difference.max() <= 8 and difference.mean() < 0.1
