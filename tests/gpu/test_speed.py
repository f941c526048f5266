"""What makes generation faster on a GPU does not change it, or by as much as it says."""

import numpy as np
import pytest
import torch

from cogvideox import CogVideoX
from cogvideox.generation.sampling import denoiser
from cogvideox.linear import Linear
from cogvideox.transformer.attention import StreamLayout, dense_attention
from cogvideox.transformer.attention_backends import attend_with, fastest_backend
from cogvideox.transformer.cuda_graphs import GraphedFunction
from cogvideox.transformer.float8 import Float8Linear, has_float8_arithmetic

CUDA = torch.device("cuda")
PROMPT = "a red ball moves right on a white floor"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 100, 2), (2, 1250, 6)])
def test_the_fastest_kernel_is_dense_attention(shape, dtype):
    batch, num_tokens, num_heads = shape
    kernel = fastest_backend(num_heads, num_tokens, batch, dtype, CUDA)
    assert kernel.milliseconds and kernel.milliseconds[kernel.name] == min(kernel.milliseconds.values())
    assert fastest_backend(num_heads, num_tokens, batch, dtype, CUDA) is kernel
    heads = [torch.randn(batch, num_tokens, num_heads, 64, device=CUDA) for _ in range(3)]
    expected = dense_attention(*heads, StreamLayout((0, num_tokens)))
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    for name in kernel.milliseconds:
        found = attend_with(name)(*(x.to(dtype) for x in heads), StreamLayout((0, num_tokens)))
        torch.testing.assert_close(found.float(), expected, rtol=tolerance, atol=tolerance)


def test_graphs_follow_shapes_and_values():
    weight = torch.randn(8, 8, device=CUDA)
    graphed = GraphedFunction(lambda x, y: (x @ weight + y).relu())
    kept = []
    for rows in (4, 5, 4, 4):
        x, y = torch.randn(rows, 8, device=CUDA), torch.randn(1, 8, device=CUDA)
        kept.append((graphed(x, y), (x @ weight + y).relu()))
    assert len(graphed.recorded) == 2
    for found, expected in kept:
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("values", [{}, {"guidance_interval": (0.2, 0.8)}, {"cache": 0.3}])
def test_recorded_steps_make_the_same_video(values, monkeypatch):
    pipe = CogVideoX.from_pretrained("toybox", device="cuda", dtype="float32")

    def frames() -> np.ndarray:
        video = pipe.generate(PROMPT, seed=0, num_inference_steps=5, **values)
        return video.frames.astype(int)

    recorded = frames()
    monkeypatch.setattr(denoiser, "MAX_GRAPH_FLOPS", 0)
    assert np.abs(recorded - frames()).max() <= 1


def test_recorded_on_the_second_gpu():
    if torch.cuda.device_count() < 2:
        pytest.skip("there is one GPU")
    first, second = (CogVideoX.from_pretrained("toybox", device=f"cuda:{i}", dtype="float32") for i in range(2))
    frames = [pipe.generate(PROMPT, seed=0, num_inference_steps=5).frames.astype(int) for pipe in (first, second)]
    assert np.abs(frames[0] - frames[1]).max() <= 1


def test_nothing_waits_for_the_gpu_once_it_is_recorded():
    pipe = CogVideoX.from_pretrained("toybox", device="cuda", dtype="bfloat16")
    steps = []

    def on_step(progress) -> None:
        if progress.stage == "denoise":
            steps.append(progress.done)
            torch.cuda.set_sync_debug_mode("error" if 1 <= progress.done < progress.total else "default")

    try:
        pipe.generate(PROMPT, seed=0, num_inference_steps=5, on_step=on_step)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert steps == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("gelu", [False, True])
def test_float8_is_what_the_cpu_makes_of_it(gelu):
    if not has_float8_arithmetic(CUDA):
        pytest.skip("this GPU has no arithmetic for float8")
    torch.manual_seed(0)
    layer, x = Linear(256, 512), torch.randn(2, 40, 256)
    with torch.no_grad():
        expected = Float8Linear(layer)(x, gelu=gelu)
        found = Float8Linear(layer.to(CUDA, torch.bfloat16))(x.to(CUDA, torch.bfloat16), gelu=gelu)
    assert found.dtype == torch.bfloat16
    error = ((found.cpu().float() - expected).norm() / expected.norm()).item()
    print(f"float8 products on the GPU and the CPU: relative error {error:.2g}")
    assert error < 0.05  # sums in fewer bits, and results in bfloat16


def test_a_video_in_float8():
    if not has_float8_arithmetic(CUDA):
        pytest.skip("this GPU has no arithmetic for float8")
    values = {"device": "cuda", "dtype": "bfloat16"}
    exact, rounded = (CogVideoX.from_pretrained("toybox", **values, float8=on) for on in (False, True))
    frames = [pipe.generate(PROMPT, seed=0, output="float").frames for pipe in (exact, rounded)]
    assert 0 < np.square(frames[0] - frames[1]).mean() < 10**-2.5
