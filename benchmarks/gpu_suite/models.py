"""Both models beside diffusers, where it is installed: forward, VAE, training step, and errors at a reduced size.

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
from gpu_suite.run import Run, Way, compare
from gpu_suite.shapes import BATCH, LATENTS, REDUCED, TINY, TINY_VAE, Size, config_of, peak_flops, shape_of
from pairs import HAS_DIFFUSERS, TransformerPair, compiled_blocks, in_float32, transformers, twin, vaes
from torch import Tensor, nn
from torch.nn.attention import sdpa_kernel

from cogvideox.pretrained.offload.transformer_cost import transformer_flops
from cogvideox.transformer.attention import Attend, dense_attention
from cogvideox.transformer.attention_backends import fastest_backend
from cogvideox.transformer.compile_blocks import compile_blocks
from cogvideox.transformer.float8 import to_float8
from cogvideox.vae.config import VAEConfig
from cogvideox.vae.model import CausalVAE


def forward_ways(pair: TransformerPair, *, all_ways: bool = False) -> dict[str, Callable[[], Way]]:
    """Ways of a forward pass of the transformer; the first one is the reference."""
    config, device = pair.ours.config, pair.latents.device
    modulation = pair.ours.precompute_modulation(pair.timestep[:1])[0]

    def ours(network: nn.Module, attend: Attend = dense_attention) -> Way:
        values = (pair.latents, pair.text, None)
        return lambda: network(*values, positions=pair.positions, modulation=modulation, attend=attend)

    def theirs_compiled(mode: str | None = None) -> Way:
        return replace(pair, theirs=compiled_blocks(pair.theirs, "transformer_blocks", mode)).predict_theirs

    def ours_fast(*, compiled: bool = True, float8: bool = False) -> Way:
        """With the fastest attention backend for the shape, as in generation."""
        network = twin(pair.ours)
        if float8:
            to_float8(network)
        if compiled:
            compile_blocks(network)
        num_tokens = shape_of(config, tuple(pair.latents.shape[2:])).tokens(config)
        shape = (config.num_attention_heads, num_tokens, len(pair.latents))
        kernel = fastest_backend(*shape, pair.latents.dtype, device, head_dim=config.attention_head_dim)
        print(f"attention: {kernel.name} of {kernel.milliseconds} ms", flush=True)
        return ours(network, kernel.attend)

    ways: dict[str, Callable[[], Way]] = {
        "diffusers": lambda: pair.predict_theirs,
        "cogvideox": lambda: ours(pair.ours),
        "cogvideox, fastest attention, compiled": ours_fast,
        "diffusers, compiled": theirs_compiled,
        "cogvideox, fp8, compiled": lambda: ours_fast(float8=True),
    }
    if all_ways:
        ways |= {
            "cogvideox, compiled": lambda: ours(compiled_blocks(pair.ours, "blocks")),
            "cogvideox, fastest attention": lambda: ours_fast(compiled=False),
            "cogvideox, fp8": lambda: ours_fast(compiled=False, float8=True),
            "cogvideox, all in the call": lambda: pair.predict_ours,
            # The default in diffusers before cuDNN attention.
            "diffusers, flash attention": lambda: under(BACKENDS["flash"], pair.predict_theirs),
        }
        for name, backend in BACKENDS.items():
            ways[f"cogvideox, {name} attention"] = lambda backend=backend: under(backend, ours(pair.ours))
    return available(ways)


def available(ways: dict[str, Callable[[], Way]]) -> dict[str, Callable[[], Way]]:
    """Leave out the ways of diffusers where it is not installed."""
    return {name: way for name, way in ways.items() if HAS_DIFFUSERS or not name.startswith("diffusers")}


def under(backend: Any, way: Way) -> Way:
    def attend() -> Tensor:
        with sdpa_kernel(backend):
            return way()

    return attend


def decode_ways(ours: CausalVAE, theirs: Any, z: Tensor) -> dict[str, Callable[[], Way]]:
    """Ways of decoding latents."""

    def tiled() -> Tensor:
        theirs.enable_tiling()
        try:
            return theirs.decode(z).sample
        finally:
            theirs.disable_tiling()

    ways = {
        "diffusers": lambda: lambda: theirs.decode(z).sample,
        "cogvideox": lambda: lambda: ours.decode(z),
        "diffusers, tiled": lambda: tiled,
        "cogvideox, 15 strips": lambda: lambda: ours.decode(z, strips=15),
        "cogvideox, 4 strips": lambda: lambda: ours.decode(z, strips=4),
        "cogvideox, 15 strips, offload": lambda: lambda: ours.decode(z, strips=15, offload=True),
    }
    return available(ways)


def encode_ways(ours: CausalVAE, theirs: Any, video: Tensor) -> dict[str, Callable[[], Way]]:
    """Ways of encoding a clip to the mean of its latents."""
    ways = {
        "diffusers": lambda: lambda: theirs.encode(video).latent_dist.mean,
        "cogvideox": lambda: lambda: ours.encode(video).mean,
        "cogvideox, 15 strips": lambda: lambda: ours.encode(video, strips=15).mean,
    }
    return available(ways)


@torch.inference_mode()
def measure_floor(run: Run) -> None:
    """Time of matrix products and attention at the real shapes of both models."""
    for preset in ("2b", "5b"):
        config, size = config_of(run, preset)
        run.note(**{preset: lower_bound(run, config, shape_of(config, size))})


@torch.inference_mode()
def measure_forward(run: Run, preset: str) -> None:
    """Forward pass at the real shape with batch size 2: time, error, memory, kernels, and the lower bound."""
    config, size = config_of(run, preset)
    bound = lower_bound(run, config, shape_of(config, size))
    run.note(preset=preset, latents=size, floor=bound)
    pair = transformers(config, size, batch=BATCH, seed=run.seed, device=run.device, dtype=torch.bfloat16)
    exact = in_float32(pair)
    run.free_memory()
    report = compare(run, f"forward, {preset}", forward_ways(pair, all_ways=run.options.all_ways), exact)
    work = sum(transformer_flops(config, shape_of(config, size)))
    for way in report["ways"].values():
        if "median" in way:
            way["share_of_floor"] = bound["seconds"] / way["median"]
            way["mfu"] = work / way["median"] / peak_flops(run)
            way["50_steps_seconds"] = 50 * way["median"]
    run.rows[-1] |= {"ways": report["ways"]}


@torch.inference_mode()
def measure_vae(run: Run) -> None:
    """Decoding and encoding 49x480x720."""
    _vae(run, TINY if run.tiny else LATENTS, "49x480x720")


@torch.inference_mode()
def measure_modes(run: Run) -> None:
    """Errors of all ways to float32 at a reduced size: real widths, 6 blocks, 17 frames of 240x352."""
    size = TINY if run.tiny else REDUCED
    for preset in ("2b", "5b"):
        torch._dynamo.reset()  # otherwise the second width causes dynamic compilation
        config, _ = config_of(run, preset)
        config = replace(config, num_layers=2 if run.tiny else 6)
        pair = transformers(config, size, batch=BATCH, seed=run.seed, device=run.device, dtype=torch.bfloat16)
        compare(run, f"forward, {preset}, reduced", forward_ways(pair, all_ways=True), in_float32(pair))
        del pair
        run.free_memory()
    _vae(run, size, "reduced")


def _vae(run: Run, size: Size, name: str) -> None:
    config = TINY_VAE if run.tiny else VAEConfig()
    t, h, w = size
    generator = torch.Generator(run.device).manual_seed(run.seed)
    z = torch.randn(1, config.latent_channels, *size, generator=generator, device=run.device).bfloat16()
    video = torch.rand(1, 3, 4 * t - 3, 8 * h, 8 * w, generator=generator, device=run.device).bfloat16() * 2 - 1
    ours, theirs = vaes(config, seed=run.seed, device=run.device, dtype=torch.bfloat16)
    reference, decode, encode = ours, ours.decode, lambda x: ours.encode(x).mean
    if theirs is not None:
        reference, decode = theirs, lambda x: theirs.decode(x).sample
        encode = lambda x: theirs.encode(x).latent_dist.mean  # noqa: E731
    tasks = {
        "decode": (decode, z, lambda: decode_ways(ours, theirs, z)),
        "encode": (encode, video, lambda: encode_ways(ours, theirs, video)),
    }
    for verb, (use, given, ways) in tasks.items():
        reference.float()
        exact, why = run.attempt(
            f"{verb} in float32", lambda use=use, given=given: compute_if_fast(run, use, given.float())
        )
        reference.bfloat16()
        run.free_memory()
        if exact is None:
            run.note(**{f"{verb} in float32": why or "takes too long"})
        compare(run, f"{verb}, {name}", ways(), exact)


def compute_if_fast(run: Run, use: Callable[[Tensor], Tensor], given: Tensor) -> Tensor | None:
    """The result, or None if it would take over a quarter of the time left, estimated on a sixteenth of the frame.

    Convolutions in float32 are slow on a GPU.
    """
    h, w = (side // 4 // 8 * 8 or side for side in given.shape[3:])
    part = given[..., :h, :w]
    for _ in range(2):
        start = time.perf_counter()
        use(part)
        synchronize(run.device)
    estimate = (time.perf_counter() - start) * given[0, 0, 0].numel() / part[0, 0, 0].numel()
    return None if estimate > run.left() / 4 else use(given)


def measure_training(run: Run) -> None:
    """A training step of the 2B on one clip: forward, backward and AdamW in bfloat16."""
    config, size = config_of(run, "2b")
    pair = transformers(config, size, batch=1, seed=run.seed, device=run.device, dtype=torch.bfloat16)
    target = torch.randn_like(pair.latents)

    def stepping(network: nn.Module, predict: Way) -> Callable[[], Way]:
        def build() -> Way:
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
        pair.theirs.enable_gradient_checkpointing()
        try:
            return pair.predict_theirs()
        finally:
            pair.theirs.disable_gradient_checkpointing()

    compiled = replace(pair, ours=compiled_blocks(pair.ours, "blocks"))
    report = compare(
        run,
        "training step, 2b",
        available(
            {
                "diffusers, checkpointed": stepping(pair.theirs, checkpointed),
                "cogvideox": stepping(pair.ours, pair.predict_ours),
                "cogvideox, compiled": stepping(compiled.ours, compiled.predict_ours),
                "diffusers": stepping(pair.theirs, pair.predict_theirs),
            }
        ),
        None,
    )
    shape = shape_of(config, size, batch=1)
    work = 3 * sum(transformer_flops(config, shape))
    for way in report["ways"].values():
        if "median" in way:
            way["mfu"] = work / way["median"] / peak_flops(run)
    run.note(tokens=shape.tokens(config), flops=work)
