"""What `gpu.py` measures: each piece is a function of a `Run`, and a way of doing a task is a row of a dict.

Axes: b batch, c latent channels, t latent frames, h w latent size.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from common import row, wait
from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXPipeline
from gpu_floor import BACKENDS, floor, flops, num_tokens
from gpu_run import Run, Way, compare
from pairs import TransformerPair, compiled_blocks, in_float32, transformers, twin, vaes
from torch import Tensor, nn
from torch.nn.attention import sdpa_kernel

from cogvideox import CogVideoX
from cogvideox.bundle.folder import Bundle
from cogvideox.bundle.layout import Description
from cogvideox.bundle.machine import GPUS
from cogvideox.bundle.settings import official
from cogvideox.diffusion.config import PRESETS as SCHEDULES
from cogvideox.diffusion.schedule import Schedule
from cogvideox.text.config import T5Config
from cogvideox.text.encoder import T5Encoder
from cogvideox.text.tokenizer import Tokenizer
from cogvideox.text.weights import init_weights
from cogvideox.transformer.attention import Attend, dense
from cogvideox.transformer.compiled import compile_blocks
from cogvideox.transformer.config import PRESETS, TransformerConfig
from cogvideox.transformer.float8 import to_float8
from cogvideox.transformer.kernels import fastest
from cogvideox.transformer.model import Transformer
from cogvideox.vae.config import VAEConfig
from cogvideox.vae.model import CausalVAE

LATENTS = (13, 60, 90)
REDUCED = (5, 30, 44)  # two chunks of the VAE
TINY = (3, 4, 6)
_TINY_WIDTHS = {"num_attention_heads": 2, "num_layers": 2, "text_embed_dim": 16, "max_text_seq_length": 8}
_TINY_SIZE = {"sample_frames": 9, "sample_height": 4, "sample_width": 6}
TINY_VAE = VAEConfig(block_out_channels=(4, 8, 8, 8), norm_num_groups=2, layers_per_block=1)
BATCH = 2  # the two halves of guidance
PEAK = GPUS["H100"].peak


def config_of(run: Run, preset: str) -> tuple[TransformerConfig, tuple[int, int, int]]:
    """A transformer and the latents' frames, height and width."""
    config = PRESETS[preset]()
    return (replace(config, **_TINY_WIDTHS, **_TINY_SIZE), TINY) if run.tiny else (config, LATENTS)


def forward_ways(
    pair: TransformerPair, *, every_backend: bool = False, max_autotune: bool = False
) -> dict[str, Callable[[], Way]]:
    """A forward of the transformer; the first way is what the others are compared with."""
    config, device = pair.ours.config, pair.latents.device
    tables = pair.ours.modulation(pair.timestep[:1])[0]

    def ours(network: nn.Module, attend: Attend = dense) -> Way:
        values = (pair.latents, pair.text, None)
        return lambda: network(*values, positions=pair.positions, modulation=tables, attend=attend)

    def theirs_compiled(mode: str | None = None) -> Way:
        return replace(pair, theirs=compiled_blocks(pair.theirs, "transformer_blocks", mode)).predict_theirs

    def ours_fast(*, compiled: bool = True, float8: bool = False) -> Way:
        """As a generation does it: with the fastest attention that the card has for the shape."""
        network = twin(pair.ours)
        if float8:
            to_float8(network)
        if compiled:
            compile_blocks(network)
        shape = (config.num_attention_heads, num_tokens(config, tuple(pair.latents.shape[2:])), len(pair.latents))
        kernel = fastest(*shape, pair.latents.dtype, device, head_dim=config.attention_head_dim)
        print(f"attention: {kernel.name} of {kernel.milliseconds} ms", flush=True)
        return ours(network, kernel.attend)

    ways: dict[str, Callable[[], Way]] = {
        "diffusers": lambda: pair.predict_theirs,
        "cogvideox": lambda: ours(pair.ours),
        "diffusers, compiled": theirs_compiled,
        "cogvideox, compiled": lambda: ours(compiled_blocks(pair.ours, "blocks")),
        "cogvideox, fastest attention": lambda: ours_fast(compiled=False),
        "cogvideox, fastest attention, compiled": ours_fast,
        "cogvideox, fp8, compiled": lambda: ours_fast(float8=True),
        # What diffusers was measured with until cuDNN's attention became the default.
        "diffusers, flash attention": lambda: under(BACKENDS["flash"], pair.predict_theirs),
    }
    if max_autotune:
        mode = "max-autotune-no-cudagraphs"
        ways["diffusers, max-autotune"] = lambda: theirs_compiled(mode)
        ways["cogvideox, max-autotune"] = lambda: ours(compiled_blocks(pair.ours, "blocks", mode))
    if every_backend:
        ways["cogvideox, all in the call"] = lambda: pair.predict_ours
        ways["cogvideox, fp8"] = lambda: ours_fast(compiled=False, float8=True)
        for name, backend in BACKENDS.items():
            ways[f"cogvideox, {name} attention"] = lambda backend=backend: under(backend, ours(pair.ours))
    return ways


def under(backend: Any, way: Way) -> Way:
    def attend() -> Tensor:
        with sdpa_kernel(backend):
            return way()

    return attend


def decode_ways(ours: CausalVAE, theirs: AutoencoderKLCogVideoX, z: Tensor) -> dict[str, Callable[[], Way]]:
    """Decoding latents."""

    def tiled() -> Tensor:
        theirs.enable_tiling()
        try:
            return theirs.decode(z).sample
        finally:
            theirs.disable_tiling()

    return {
        "diffusers": lambda: lambda: theirs.decode(z).sample,
        "diffusers, tiled": lambda: tiled,
        "cogvideox": lambda: lambda: ours.decode(z),
        "cogvideox, 4 strips": lambda: lambda: ours.decode(z, strips=4),
        "cogvideox, 15 strips": lambda: lambda: ours.decode(z, strips=15),
        "cogvideox, 15 strips, the rest on the host": lambda: lambda: ours.decode(z, strips=15, offload=True),
    }


def encode_ways(ours: CausalVAE, theirs: AutoencoderKLCogVideoX, video: Tensor) -> dict[str, Callable[[], Way]]:
    """Encoding a clip, to the mean of its latents."""
    return {
        "diffusers": lambda: lambda: theirs.encode(video).latent_dist.mean,
        "cogvideox": lambda: lambda: ours.encode(video).mean,
        "cogvideox, 15 strips": lambda: lambda: ours.encode(video, strips=15).mean,
    }


@torch.inference_mode()
def measure_floor(run: Run) -> None:
    """Matrix products and attention at the real shapes of both models."""
    for preset in ("2b", "5b"):
        run.note(**{preset: floor(run, *config_of(run, preset), BATCH)})


@torch.inference_mode()
def measure_forward(run: Run, preset: str) -> None:
    """A forward of both halves of guidance at the real shape: time, error, memory, kernels, and the floor beside it."""
    config, size = config_of(run, preset)
    floor_here = floor(run, config, size, BATCH)
    run.note(preset=preset, latents=size, floor=floor_here)
    pair = transformers(config, size, batch=BATCH, seed=run.seed, device=run.device, dtype=torch.bfloat16)
    exact = in_float32(pair)
    run.tidy()
    report = compare(run, f"forward, {preset}", forward_ways(pair, max_autotune=run.max_autotune), exact, warmup=1)
    work = sum(flops(config, size, BATCH).values())
    for way in report["ways"].values():
        if "median" in way:
            way["share_of_floor"] = floor_here["seconds"] / way["median"]
            way["mfu"] = work / way["median"] / PEAK
            way["50_steps_seconds"] = 50 * way["median"]
    run.rows[-1] |= {"ways": report["ways"]}


@torch.inference_mode()
def measure_vae(run: Run) -> None:
    """Decoding and encoding 49x480x720."""
    _vae(run, TINY if run.tiny else LATENTS, "49x480x720")


@torch.inference_mode()
def measure_modes(run: Run) -> None:
    """The error of every way beside float32 at a reduced size: real widths, 6 blocks, 17 frames of 240x352."""
    size = TINY if run.tiny else REDUCED
    for preset in ("2b", "5b"):
        config, _ = config_of(run, preset)
        config = replace(config, num_layers=2 if run.tiny else 6)
        pair = transformers(config, size, batch=BATCH, seed=run.seed, device=run.device, dtype=torch.bfloat16)
        compare(run, f"forward, {preset}, reduced", forward_ways(pair, every_backend=True), in_float32(pair))
        del pair
        run.tidy()
    _vae(run, size, "reduced")


def _vae(run: Run, size: tuple[int, int, int], name: str) -> None:
    config = TINY_VAE if run.tiny else VAEConfig()
    t, h, w = size
    generator = torch.Generator(run.device).manual_seed(run.seed)
    z = torch.randn(1, config.latent_channels, *size, generator=generator, device=run.device).bfloat16()
    video = torch.rand(1, 3, 4 * t - 3, 8 * h, 8 * w, generator=generator, device=run.device).bfloat16() * 2 - 1
    ours, theirs = vaes(config, seed=run.seed, device=run.device, dtype=torch.bfloat16)
    decode, encode = (lambda x: theirs.decode(x).sample), (lambda x: theirs.encode(x).latent_dist.mean)
    tasks = {
        "decode": (decode, z, lambda: decode_ways(ours, theirs, z)),
        "encode": (encode, video, lambda: encode_ways(ours, theirs, video)),
    }
    for verb, (use, given, ways) in tasks.items():
        theirs.float()
        exact, why = run.attempt(f"{verb} in float32", lambda use=use, given=given: affordable(run, use, given.float()))
        theirs.bfloat16()
        run.tidy()
        if exact is None:
            run.note(**{f"{verb} in float32": why or "would take too long"})
        compare(run, f"{verb}, {name}", ways(), exact, warmup=1)


def affordable(run: Run, use: Callable[[Tensor], Tensor], given: Tensor) -> Tensor | None:
    """What comes of it, unless a sixteenth of the picture shows that all of it would take over a quarter of the time
    left: float32 convolutions are slow on a card, nobody knows how slow."""
    h, w = (side // 4 // 8 * 8 or side for side in given.shape[3:])
    part = given[..., :h, :w]
    for _ in range(2):
        began = time.perf_counter()
        use(part)
        wait(run.device)
    estimate = (time.perf_counter() - began) * given[0, 0, 0].numel() / part[0, 0, 0].numel()
    return None if estimate > run.left() / 4 else use(given)


def pipelines(run: Run, preset: str) -> tuple[CogVideoX, CogVideoXPipeline, dict[str, Any]]:
    """Both pipelines of one model of random weights, and what theirs takes for a prompt: the same embeddings. In front
    of both stands a T5 of one layer, for the real one takes no time to speak of."""
    config, size = config_of(run, preset)
    where: dict[str, Any] = {"seed": run.seed, "device": run.device, "dtype": torch.bfloat16}
    pair = transformers(config, size, batch=1, **where)
    vae, their_vae = vaes(TINY_VAE if run.tiny else replace(VAEConfig(), scaling_factor=0.7), **where)
    tokenizer = Tokenizer.from_folder(Path(__file__).parent.parent / "cogvideox/models/toybox/tokenizer")
    text = T5Encoder(T5Config(len(tokenizer), config.text_embed_dim, d_ff=64, num_layers=1, num_heads=1))
    init_weights(text, torch.Generator().manual_seed(run.seed))
    text = text.eval().requires_grad_(False).to(run.device, torch.bfloat16)
    schedule = SCHEDULES[preset]()
    settings = official(config, vae.config, "ddim")
    about = Description("random", Path(), config, vae.config, text.config, schedule, settings)
    bundle = Bundle(pair.ours, vae, text, tokenizer, Schedule(**asdict(schedule)), settings)
    ours = CogVideoX(about, bundle, torch.device(run.device), torch.bfloat16)
    scheduler = CogVideoXDDIMScheduler.from_config(schedule.to_diffusers("ddim"))
    theirs = CogVideoXPipeline(None, None, their_vae, pair.theirs, scheduler)
    theirs.set_progress_bar_config(disable=True)

    def embed(prompt: str) -> Tensor:
        return text(tokenizer.encode([prompt], settings.text_length).to(run.device))

    return ours, theirs, {"prompt_embeds": embed(PROMPT), "negative_prompt_embeds": embed("")}


PROMPT = "a red ball"


def measure_generation(run: Run, preset: str) -> None:
    """A whole generation, once each: 50 steps and the VAE, from embeddings to frames."""
    _, (t, h, w) = config_of(run, preset)
    ours, theirs, texts = pipelines(run, preset)
    size = {"num_frames": 4 * t - 3, "height": 8 * h, "width": 8 * w}
    steps = 3 if run.tiny else 50

    def by_theirs(num_steps: int) -> Tensor:
        seed = torch.Generator().manual_seed(run.seed)
        values = {**size, **texts, "num_inference_steps": num_steps, "guidance_scale": 6.0}
        return torch.from_numpy(theirs(**values, generator=seed, output_type="np").frames[0])

    def by_ours(num_steps: int, **values: Any) -> Tensor:
        values = {"guidance_scale": 6.0, "dynamic_guidance": False, "sampler": "ddim", **size, **values}
        video = ours.generate(PROMPT, **values, num_inference_steps=num_steps, seed=run.seed, output="float")
        return torch.from_numpy(video.frames)

    @cache
    def other(float8: bool) -> Transformer:
        network = twin(ours.bundle.transformer)
        if float8:
            to_float8(network)
        compile_blocks(network)
        return network

    def by(float8: bool) -> Callable[[int], Tensor]:
        return lambda num_steps: _with(ours, other(float8), lambda: by_ours(num_steps))

    ways: dict[str, tuple[int, Callable[[int], Tensor]]] = {
        "diffusers": (steps, by_theirs),
        "cogvideox, compiled": (steps, by(float8=False)),
        "cogvideox, fp8, compiled": (steps, by(float8=True)),
        "cogvideox": (steps, by_ours),
        "cogvideox, dpm++ in half the steps": (math.ceil(steps / 2), lambda n: by_ours(n, sampler="dpm++")),
    }
    times: dict[str, list[float]] = {}
    facts: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}
    reference: Tensor | None = None
    for name, (num_steps, make) in ways.items():
        _, why = run.attempt(f"{name}, first step", lambda make=make: make(1))  # compiles, and fills the caches
        began = time.perf_counter()
        frames, why = (None, why) if why else run.attempt(name, lambda make=make, n=num_steps: make(n))
        wait(run.device)
        if frames is None:
            failed[name] = why
            continue
        times[name] = [time.perf_counter() - began]
        reference = frames if reference is None else reference
        facts[name] = {"num_steps": num_steps, "psnr_db": psnr(frames, reference)}
        print(f"{name}: {times[name][0]:.2f} s", flush=True)
    report = row(f"generation, {preset}", times) if times else {"task": "", "reference": "", "ways": {}}
    for name, known in facts.items():
        report["ways"][name] |= known
    report["ways"] |= {name: {"failed": why} for name, why in failed.items()}
    run.add(report)


def _with(ours: CogVideoX, transformer: Transformer, make: Callable[[], Tensor]) -> Tensor:
    """With another transformer in its place."""
    plain, ours.bundle = ours.bundle, replace(ours.bundle, transformer=transformer)
    try:
        return make()
    finally:
        ours.bundle = plain


def psnr(frames: Tensor, reference: Tensor) -> float | None:
    """In dB, of frames in 0..1; None of equal ones."""
    error = (frames - reference).square().mean().item()
    return None if error == 0 else -10 * math.log10(error)


def measure_training(run: Run) -> None:
    """A whole step of the 2B on one clip: forward, backward and AdamW, all in bfloat16."""
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
        {
            "diffusers, checkpointed": stepping(pair.theirs, checkpointed),
            "diffusers": stepping(pair.theirs, pair.predict_theirs),
            "cogvideox": stepping(pair.ours, pair.predict_ours),
            "cogvideox, compiled": stepping(compiled.ours, compiled.predict_ours),
        },
        None,
        warmup=1,
    )
    work = 3 * sum(flops(config, size, 1).values())
    for way in report["ways"].values():
        if "median" in way:
            way["mfu"] = work / way["median"] / PEAK
    run.note(tokens=num_tokens(config, size), flops=work)


PIECES: dict[str, Callable[[Run], None]] = {
    "floor": measure_floor,
    "modes": measure_modes,
    "vae": measure_vae,
    "forward-2b": lambda run: measure_forward(run, "2b"),
    "forward-5b": lambda run: measure_forward(run, "5b"),
    "generate-2b": lambda run: measure_generation(run, "2b"),
    "generate-5b": lambda run: measure_generation(run, "5b"),
    "train-2b": measure_training,
}
"""In the order in which they tell most for their time."""
