import torch

from cogvideox.transformer.attention import Layout, dense
from cogvideox.transformer.attention_backends import attend_with, fastest_backend
from cogvideox.transformer.cuda_graphs import GraphedFunction


def test_on_a_cpu_there_is_one_kernel_and_no_graph():
    kernel = fastest_backend(2, 16, 1, torch.float32, torch.device("cpu"))
    assert kernel.attend is dense and str(kernel) == "default" and kernel.milliseconds == {}

    def double(x: torch.Tensor) -> torch.Tensor:
        return 2 * x

    graphed = GraphedFunction(double)
    assert torch.equal(graphed(torch.ones(3)), torch.full((3,), 2.0)) and not graphed.recorded


def test_a_kernel_is_dense_attention():
    heads = [torch.randn(1, 6, 2, 16) for _ in range(3)]
    assert attend_with("flash") is attend_with("flash")
    torch.testing.assert_close(attend_with("flash")(*heads, Layout((2, 4))), dense(*heads, Layout((2, 4))))
