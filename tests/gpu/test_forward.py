"""The networks' outputs on a GPU equal those on the CPU in float32, and are close in bfloat16."""

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


def perturb(model: nn.Module) -> nn.Module:
    """Add noise to all parameters, because gates that are initialized to zero would hide parts of the network."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval().requires_grad_(False)


def reconstruct(vae: CausalVAE, device: torch.device) -> Tensor:
    """Reconstruct 17 frames, which are two chunks."""
    return vae.decode(vae.encode(random(2, 3, 17, 16, 24).to(device)).mean)


def predict(transformer: Transformer, device: torch.device) -> Tensor:
    timestep = torch.tensor([3, 999], device=device)
    return transformer(random(2, 4, 2, 2, 2).to(device), random(2, 24, 16).to(device), timestep)


def encode_text(encoder: T5Encoder, device: torch.device) -> Tensor:
    return encoder(torch.arange(2 * 24, device=device).view(2, 24))


@pytest.fixture(params=["vae", "transformer", "text"])
def network(request, tmp_path) -> tuple[nn.Module, Forward]:
    if request.param == "vae":
        vae = CausalVAE(tiny_runs.VAE)
        init_weights(vae, torch.Generator().manual_seed(0))
        return vae.eval().requires_grad_(False), reconstruct
    model = build_model(tiny_runs.toybox_run(tmp_path))
    if request.param == "transformer":
        return perturb(model.transformer), predict
    return model.text_encoder, encode_text


def test_gpu_output_in_float32_equals_cpu_output(network):
    model, forward = network
    expected = forward(model, torch.device("cpu"))
    output = forward(copy.deepcopy(model).cuda(), torch.device("cuda")).cpu()
    print(f"maximum difference: {(output - expected).abs().max() / expected.abs().max():.2g} of the maximum value")
    torch.testing.assert_close(output, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())


def test_gpu_output_in_bfloat16_is_close_to_cpu_output(network):
    """bfloat16 has 8 bits of precision, and the errors of consecutive matrix products add up to a few percent."""
    model, forward = network
    expected = forward(model, torch.device("cpu"))
    with torch.autocast("cuda", torch.bfloat16):
        output = forward(copy.deepcopy(model).cuda(), torch.device("cuda"))
    error = ((output.cpu().float() - expected).norm() / expected.norm()).item()
    print(f"relative error in bfloat16: {error:.2g}")
    assert error < 0.05


def test_packed_clips_have_the_loss_and_gradients_of_separate_clips():
    """In bfloat16, for which CUDA has a varlen attention kernel, with clips of three sizes in one sequence."""
    model = perturb(Transformer(TRANSFORMERS["5b"])).requires_grad_().cuda()
    clips = [random(4, t, h, w).cuda() for t, h, w in ((1, 4, 6), (3, 4, 6), (2, 6, 4))]
    text, timestep = random(3, TEXT_LENGTH, 32).cuda(), torch.tensor([3, 500, 999], device="cuda")
    results = []
    for packed in (True, False):
        with torch.autocast("cuda", torch.bfloat16):
            separate = (model(clip[None], text[i : i + 1], timestep[i : i + 1])[0] for i, clip in enumerate(clips))
            predicted = model.forward_packed(clips, text, timestep) if packed else list(separate)
        loss = sum(v.float().square().mean() for v in predicted)
        results.append([loss, *torch.autograd.grad(loss, list(model.parameters()))])
    largest_gradient = max(gradient.abs().max() for gradient in results[1][1:])
    errors = [((a - b).abs().max() / max(b.abs().max(), 0.1 * largest_gradient)).item() for a, b in zip(*results)]
    print(f"packed and separate clips: loss {errors[0]:.2g}, gradients {max(errors[1:]):.2g}")
    assert max(errors) < 0.05


def test_a_seed_gives_the_same_video_on_gpu_and_cpu():
    """The shipped model in float32; pixel values in 0..255 differ only by rounding."""

    def frames(device: str) -> np.ndarray:
        pipe = CogVideoX.from_pretrained("toybox", device=device, dtype="float32")
        return pipe.generate("a red ball moves right on a white floor", seed=0, num_inference_steps=5).frames

    difference = np.abs(frames("cuda").astype(int) - frames("cpu").astype(int))
    print(f"difference of pixel values in 0..255: maximum {difference.max()}, mean {difference.mean():.2g}")
    assert difference.max() <= 8 and difference.mean() < 0.1
