"""The 2B and 5B compared to diffusers, if it is installed: forward, VAE, training step, and errors at a reduced size.

Axes: b batch, c latent channels, t latent frames, h w latent size.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from common import synchronize
from gpu_suite.roofline import BACKENDS, lower_bound
from gpu_suite.run import Run, Variant, compare
from gpu_suite.shapes import BATCH, LATENTS, REDUCED, TINY, TINY_VAE, Size, config_of, peak_flops, shape_of
from pairs import HAS_DIFFUSERS, TransformerPair, compiled_blocks, predict_in_float32, share_weights, transformers, vaes
from torch import Tensor, nn
from torch.nn.attention import sdpa_kernel

from cogvideox.pretrained.offload.transformer_cost import transformer_flops
from cogvideox.transformer.acceleration.attention_backends import fastest_backend
from cogvideox.transformer.acceleration.compile_blocks import compile_blocks
from cogvideox.transformer.acceleration.float8 import to_float8
from cogvideox.transformer.attention import Attend, dense_attention
from cogvideox.vae.config import VAEConfig
from cogvideox.vae.model import CausalVAE


def forward_variants(pair: TransformerPair, *, all_variants: bool = False) -> dict[str, Callable[[], Variant]]:
    """Return the variants of a forward pass of the transformer. The first one is the reference."""
    config, device = pair.cogvideox.config, pair.latents.device
    modulation = pair.cogvideox.precompute_modulation(pair.timestep[:1])[0]

    def cogvideox(network: nn.Module, attend: Attend = dense_attention) -> Variant:
        values = (pair.latents, pair.text, None)
        return lambda: network(*values, positions=pair.positions, modulation=modulation, attend=attend)

    def diffusers_compiled(mode: str | None = None) -> Variant:
        return replace(
            pair, diffusers=compiled_blocks(pair.diffusers, "transformer_blocks", mode)
        ).predict_with_diffusers

    def fastest(*, compiled: bool = True, float8: bool = False) -> Variant:
        """Use the fastest attention backend for the shape, as in generation."""
        network = share_weights(pair.cogvideox)
        if float8:
            to_float8(network)
        if compiled:
            compile_blocks(network)
        num_tokens = shape_of(config, tuple(pair.latents.shape[2:])).tokens(config)
        shape = (config.num_attention_heads, num_tokens, len(pair.latents))
        kernel = fastest_backend(*shape, pair.latents.dtype, device, head_dim=config.attention_head_dim)
        print(f"attention: {kernel.name} of {kernel.milliseconds} ms", flush=True)
        return cogvideox(network, kernel.attend)

    variants: dict[str, Callable[[], Variant]] = {
        "diffusers": lambda: pair.predict_with_diffusers,
        "cogvideox": lambda: cogvideox(pair.cogvideox),
        "cogvideox, fastest attention, compiled": fastest,
        "diffusers, compiled": diffusers_compiled,
        "cogvideox, fp8, compiled": lambda: fastest(float8=True),
    }
    if all_variants:
        variants |= {
            "cogvideox, compiled": lambda: cogvideox(compiled_blocks(pair.cogvideox, "blocks")),
            "cogvideox, fastest attention": lambda: fastest(compiled=False),
            "cogvideox, fp8": lambda: fastest(compiled=False, float8=True),
            "cogvideox, all in the call": lambda: pair.predict,
            # The default of diffusers before PyTorch had cuDNN attention.
            "diffusers, flash attention": lambda: under(BACKENDS["flash"], pair.predict_with_diffusers),
        }
        for name, backend in BACKENDS.items():
            variants[f"cogvideox, {name} attention"] = lambda backend=backend: under(backend, cogvideox(pair.cogvideox))
    return available(variants)


def available(variants: dict[str, Callable[[], Variant]]) -> dict[str, Callable[[], Variant]]:
    """Remove the variants that need diffusers if it is not installed."""
    return {name: variant for name, variant in variants.items() if HAS_DIFFUSERS or not name.startswith("diffusers")}


def under(backend: Any, variant: Variant) -> Variant:
    def attend() -> Tensor:
        with sdpa_kernel(backend):
            return variant()

    return attend


def decode_variants(cogvideox: CausalVAE, diffusers: Any, z: Tensor) -> dict[str, Callable[[], Variant]]:
    """Return the variants of decoding latents."""

    def tiled() -> Tensor:
        diffusers.enable_tiling()
        try:
            return diffusers.decode(z).sample
        finally:
            diffusers.disable_tiling()

    variants = {
        "diffusers": lambda: lambda: diffusers.decode(z).sample,
        "cogvideox": lambda: lambda: cogvideox.decode(z),
        "diffusers, tiled": lambda: tiled,
        "cogvideox, 15 strips": lambda: lambda: cogvideox.decode(z, strips=15),
        "cogvideox, 4 strips": lambda: lambda: cogvideox.decode(z, strips=4),
        "cogvideox, 15 strips, offload": lambda: lambda: cogvideox.decode(z, strips=15, offload=True),
    }
    return available(variants)


def encode_variants(cogvideox: CausalVAE, diffusers: Any, video: Tensor) -> dict[str, Callable[[], Variant]]:
    """Return the variants of encoding a clip to the mean of its latents."""
    variants = {
        "diffusers": lambda: lambda: diffusers.encode(video).latent_dist.mean,
        "cogvideox": lambda: lambda: cogvideox.encode(video).mean,
        "cogvideox, 15 strips": lambda: lambda: cogvideox.encode(video, strips=15).mean,
    }
    return available(variants)


@torch.inference_mode()
def measure_lower_bound(run: Run) -> None:
    """Measure matrix products and attention at the real shapes of both models."""
    for preset in ("2b", "5b"):
        config, size = config_of(run, preset)
        run.note(**{preset: lower_bound(run, config, shape_of(config, size))})


@torch.inference_mode()
def measure_forward(run: Run, preset: str) -> None:
    """Measure a forward pass at the real shape with batch size 2: time, error, memory, kernels, and the lower bound."""
    config, size = config_of(run, preset)
    bound = lower_bound(run, config, shape_of(config, size))
    run.note(preset=preset, latents=size, lower_bound=bound)
    pair = transformers(config, size, batch=BATCH, seed=run.seed, device=run.device, dtype=torch.bfloat16)
    exact = predict_in_float32(pair)
    run.free_memory()
    report = compare(run, f"forward, {preset}", forward_variants(pair, all_variants=run.options.all_variants), exact)
    work = sum(transformer_flops(config, shape_of(config, size)))
    for variant in report["variants"].values():
        if "median" in variant:
            variant["fraction_of_lower_bound"] = bound["seconds"] / variant["median"]
            variant["mfu"] = work / variant["median"] / peak_flops(run)
            variant["50_steps_seconds"] = 50 * variant["median"]
    run.rows[-1] |= {"variants": report["variants"]}


@torch.inference_mode()
def measure_vae(run: Run) -> None:
    """Measure decoding and encoding of 49x480x720."""
    _vae(run, TINY if run.tiny else LATENTS, "49x480x720")


@torch.inference_mode()
def measure_modes(run: Run) -> None:
    """Measure the errors of all variants at a reduced size: real widths, 6 blocks, 17 frames of 240x352."""
    size = TINY if run.tiny else REDUCED
    for preset in ("2b", "5b"):
        torch._dynamo.reset()  # otherwise the second width causes dynamic compilation
        config, _ = config_of(run, preset)
        config = replace(config, num_layers=2 if run.tiny else 6)
        pair = transformers(config, size, batch=BATCH, seed=run.seed, device=run.device, dtype=torch.bfloat16)
        compare(run, f"forward, {preset}, reduced", forward_variants(pair, all_variants=True), predict_in_float32(pair))
        del pair
        run.free_memory()
    _vae(run, size, "reduced")


def _vae(run: Run, size: Size, name: str) -> None:
    config = TINY_VAE if run.tiny else VAEConfig()
    t, h, w = size
    generator = torch.Generator(run.device).manual_seed(run.seed)
    z = torch.randn(1, config.latent_channels, *size, generator=generator, device=run.device).bfloat16()
    video = torch.rand(1, 3, 4 * t - 3, 8 * h, 8 * w, generator=generator, device=run.device).bfloat16() * 2 - 1
    cogvideox, diffusers = vaes(config, seed=run.seed, device=run.device, dtype=torch.bfloat16)
    reference, decode, encode = cogvideox, cogvideox.decode, lambda x: cogvideox.encode(x).mean
    if diffusers is not None:
        reference, decode = diffusers, lambda x: diffusers.decode(x).sample
        encode = lambda x: diffusers.encode(x).latent_dist.mean  # noqa: E731
    tasks = {
        "decode": (decode, z, lambda: decode_variants(cogvideox, diffusers, z)),
        "encode": (encode, video, lambda: encode_variants(cogvideox, diffusers, video)),
    }
    for verb, (function, x, variants) in tasks.items():
        reference.float()
        exact, reason = run.attempt(
            f"{verb} in float32", lambda function=function, x=x: compute_if_fast(run, function, x.float())
        )
        reference.bfloat16()
        run.free_memory()
        if exact is None:
            run.note(**{f"{verb} in float32": reason or "takes too long"})
        compare(run, f"{verb}, {name}", variants(), exact)


def compute_if_fast(run: Run, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor | None:
    """Return `function(x)`, or None if it would take more than a quarter of the remaining time.

    The time is estimated on a sixteenth of the frame, because float32 convolutions are slow on a GPU.
    """
    h, w = (side // 4 // 8 * 8 or side for side in x.shape[3:])
    part = x[..., :h, :w]
    for _ in range(2):
        start = time.perf_counter()
        function(part)
        synchronize(run.device)
    estimate = (time.perf_counter() - start) * x[0, 0, 0].numel() / part[0, 0, 0].numel()
    return None if estimate > run.remaining() / 4 else function(x)


def measure_training(run: Run) -> None:
    """Measure a training step of the 2B on one clip: forward, backward and AdamW in bfloat16."""
    config, size = config_of(run, "2b")
    pair = transformers(config, size, batch=1, seed=run.seed, device=run.device, dtype=torch.bfloat16)
    target = torch.randn_like(pair.latents)

    def stepping(network: nn.Module, predict: Variant) -> Callable[[], Variant]:
        def build() -> Variant:
            network.requires_grad_(True)
            optimizer = torch.optim.AdamW(network.parameters(), lr=0.0, fused=run.device.startswith("cuda"))

            def step() -> Tensor:
                loss = F.mse_loss(predict().float(), target.float())
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                return loss.detach()[None]

            return step

        return build

    def checkpointed() -> Tensor:
        pair.diffusers.enable_gradient_checkpointing()
        try:
            return pair.predict_with_diffusers()
        finally:
            pair.diffusers.disable_gradient_checkpointing()

    compiled = replace(pair, cogvideox=compiled_blocks(pair.cogvideox, "blocks"))
    report = compare(
        run,
        "training step, 2b",
        available(
            {
                "diffusers, checkpointed": stepping(pair.diffusers, checkpointed),
                "cogvideox": stepping(pair.cogvideox, pair.predict),
                "cogvideox, compiled": stepping(compiled.cogvideox, compiled.predict),
                "diffusers": stepping(pair.diffusers, pair.predict_with_diffusers),
            }
        ),
        None,
    )
    shape = shape_of(config, size, batch=1)
    work = 3 * sum(transformer_flops(config, shape))
    for variant in report["variants"].values():
        if "median" in variant:
            variant["mfu"] = work / variant["median"] / peak_flops(run)
    run.note(tokens=shape.tokens(config), flops=work)
