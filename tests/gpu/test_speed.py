"""Optimizations of generation on a GPU: exact ones do not change the video, float8 changes it within its bound."""

import numpy as np
import pytest
import torch

from cogvideox import CogVideoX
from cogvideox.generation.sampling import denoiser
from cogvideox.linear import Linear
from cogvideox.transformer.acceleration.attention_backends import attend_with, fastest_backend
from cogvideox.transformer.acceleration.cuda_graphs import GraphedFunction
from cogvideox.transformer.acceleration.float8 import Float8Linear, has_float8_arithmetic
from cogvideox.transformer.attention import StreamLayout, dense_attention

CUDA = torch.device("cuda")
PROMPT = "a red ball moves right on a white floor"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 100, 2), (2, 1250, 6)])
def test_every_attention_backend_equals_dense_attention_and_the_fastest_is_chosen(shape, dtype):
    batch, num_tokens, num_heads = shape
    backend = fastest_backend(num_heads, num_tokens, batch, dtype, CUDA)
    assert backend.milliseconds and backend.milliseconds[backend.name] == min(backend.milliseconds.values())
    assert fastest_backend(num_heads, num_tokens, batch, dtype, CUDA) is backend
    qkv = [torch.randn(batch, num_tokens, num_heads, 64, device=CUDA) for _ in range(3)]
    expected = dense_attention(*qkv, StreamLayout((0, num_tokens)))
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    for name in backend.milliseconds:
        output = attend_with(name)(*(x.to(dtype) for x in qkv), StreamLayout((0, num_tokens)))
        torch.testing.assert_close(output.float(), expected, rtol=tolerance, atol=tolerance)


def test_cuda_graphs_are_recorded_once_per_shape_and_replayed_with_new_values():
    weight = torch.randn(8, 8, device=CUDA)
    graphed = GraphedFunction(lambda x, y: (x @ weight + y).relu())
    results = []
    for num_rows in (4, 5, 4, 4):
        x, y = torch.randn(num_rows, 8, device=CUDA), torch.randn(1, 8, device=CUDA)
        results.append((graphed(x, y), (x @ weight + y).relu()))
    assert len(graphed.graphs) == 2
    for output, expected in results:
        torch.testing.assert_close(output, expected)


@pytest.mark.parametrize("options", [{}, {"guidance_interval": (0.2, 0.8)}, {"cache": 0.3}])
def test_cuda_graphs_do_not_change_the_video(options, monkeypatch):
    pipe = CogVideoX.from_pretrained("toybox", device="cuda", dtype="float32")

    def frames() -> np.ndarray:
        video = pipe.generate(PROMPT, seed=0, num_inference_steps=5, **options)
        return video.frames.astype(int)

    with_graphs = frames()
    monkeypatch.setattr(denoiser, "MAX_GRAPH_FLOPS", 0)
    assert np.abs(with_graphs - frames()).max() <= 1


def test_cuda_graphs_work_on_the_second_gpu():
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    first, second = (CogVideoX.from_pretrained("toybox", device=f"cuda:{i}", dtype="float32") for i in range(2))
    frames = [pipe.generate(PROMPT, seed=0, num_inference_steps=5).frames.astype(int) for pipe in (first, second)]
    assert np.abs(frames[0] - frames[1]).max() <= 1


def test_denoising_does_not_synchronize_after_the_first_step():
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
def test_float8_linear_on_the_gpu_is_close_to_the_cpu_implementation(gelu):
    if not has_float8_arithmetic(CUDA):
        pytest.skip("needs a GPU with float8 arithmetic")
    torch.manual_seed(0)
    layer, x = Linear(256, 512), torch.randn(2, 40, 256)
    with torch.no_grad():
        expected = Float8Linear(layer)(x, gelu=gelu)
        output = Float8Linear(layer.to(CUDA, torch.bfloat16))(x.to(CUDA, torch.bfloat16), gelu=gelu)
    assert output.dtype == torch.bfloat16
    error = ((output.cpu().float() - expected).norm() / expected.norm()).item()
    print(f"float8 products on GPU and CPU: relative error {error:.2g}")
    assert error < 0.05  # the GPU accumulates with fewer bits, and its results are in bfloat16


def test_float8_changes_the_video_little():
    if not has_float8_arithmetic(CUDA):
        pytest.skip("needs a GPU with float8 arithmetic")
    options = {"device": "cuda", "dtype": "bfloat16"}
    pipes = (CogVideoX.from_pretrained("toybox", **options, float8=float8) for float8 in (False, True))
    expected, frames = (pipe.generate(PROMPT, seed=0, output="float").frames for pipe in pipes)
    assert 0 < np.square(frames - expected).mean() < 10**-2.5
