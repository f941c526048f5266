"""Measured speed of matrix products and attention at the model's shapes: a lower bound for the time of a forward pass.

Axes: b batch, s tokens of the merged stream, d width, k heads of 64 channels.
"""

import math
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from common import interleave
from gpu_suite.run import Run
from torch.nn.attention import SDPBackend, sdpa_kernel

from cogvideox.pretrained.offload.transformer_cost import BatchShape, transformer_flops
from cogvideox.transformer.config import TransformerConfig

BACKENDS = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}


def lower_bound(run: Run, config: TransformerConfig, shape: BatchShape) -> dict[str, Any]:
    """Measure each matrix product and attention of a block, and sum them over all blocks with the fastest attention."""
    batch, s, d = shape.batch_size, shape.tokens(config), config.width
    linear, attention = transformer_flops(config, shape)
    products = {"qkv": (d, 3 * d), "out": (d, d), "up": (d, 4 * d), "down": (4 * d, d)}
    bound: dict[str, Any] = {"tokens": s, "flops": linear + attention, "linear": {}, "attention": {}}
    for name, (k, n) in products.items():
        work = 2.0 * batch * s * k * n
        bound["linear"][name] = _measured(run, name, work, lambda k=k, n=n: _product(run, batch * s, k, n))
        fast = _measured(run, f"{name} in fp8", work, lambda k=k, n=n: _fp8_product(run, batch * s, k, n))
        bound.setdefault("linear_fp8", {})[name] = fast
    work = attention / config.num_layers
    heads = (batch, config.num_attention_heads, s, config.attention_head_dim)
    for name, backend in {"default": None, **BACKENDS}.items():
        bound["attention"][name] = _measured(run, name, work, lambda backend=backend: _attention(run, heads, backend))
    attention_seconds = [kernel["seconds"] for kernel in bound["attention"].values() if "seconds" in kernel]
    linear_seconds = [product.get("seconds", math.nan) for product in bound["linear"].values()]
    bound["seconds"] = config.num_layers * (sum(linear_seconds) + min(attention_seconds, default=math.nan))
    return bound


def _measured(run: Run, name: str, work: float, build: Callable[[], Callable[[], object]]) -> dict[str, Any]:
    def measure() -> float:
        variant = build()
        return median(
            interleave({name: variant}, 3 if run.tiny else 20, warmup=1 if run.tiny else 5, device=run.device)[name]
        )

    seconds, reason = run.attempt(name, measure)
    run.free_memory()
    return {"failed": reason} if seconds is None else {"seconds": seconds, "tflops_per_second": work / seconds / 1e12}


def _random(run: Run, *shape: int) -> torch.Tensor:
    generator = torch.Generator(run.device).manual_seed(run.seed)
    return torch.randn(shape, generator=generator, device=run.device).bfloat16()


def _product(run: Run, m: int, k: int, n: int) -> Callable[[], object]:
    x, weight, bias = _random(run, m, k), _random(run, n, k), _random(run, n)
    return lambda: F.linear(x, weight, bias)


def _fp8_product(run: Run, m: int, k: int, n: int) -> Callable[[], object]:
    """Return a product of float8 matrices with a scale per row, without the cast to float8."""
    x, weight = (_random(run, *shape).to(torch.float8_e4m3fn) for shape in ((m, k), (n, k)))
    scale_x, scale_w = (torch.ones(shape, device=run.device) for shape in ((m, 1), (1, n)))
    return lambda: torch._scaled_mm(x, weight.t(), scale_x, scale_w, out_dtype=torch.bfloat16, use_fast_accum=True)


def _attention(run: Run, shape: tuple[int, ...], backend: SDPBackend | None) -> Callable[[], object]:
    q, k, v = (_random(run, *shape) for _ in range(3))

    def attend() -> object:
        if backend is None:
            return F.scaled_dot_product_attention(q, k, v)
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v)

    return attend
