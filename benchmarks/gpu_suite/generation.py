"""End-to-end generation in both libraries on one GPU, with random weights: a part of `gpu_check.py`.

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
from common import ROOT, synchronize
from gpu_suite.run import Run
from gpu_suite.shapes import TINY_VAE, config_of
from pairs import HAS_DIFFUSERS, share_weights, transformers, vaes
from torch import Tensor

from cogvideox import CogVideoX
from cogvideox.diffusion.config import PRESETS as SCHEDULES
from cogvideox.diffusion.schedule import Schedule
from cogvideox.generation.sampling import denoise
from cogvideox.generation.sampling.step_cache import StepCache
from cogvideox.pretrained.model_folder import LoadedModel
from cogvideox.pretrained.model_settings import official_settings
from cogvideox.pretrained.model_spec import ModelSpec
from cogvideox.text.config import T5Config
from cogvideox.text.encoder import T5Encoder
from cogvideox.text.init_weights import init_weights
from cogvideox.text.tokenizer import Tokenizer
from cogvideox.transformer.acceleration.compile_blocks import compile_blocks
from cogvideox.transformer.acceleration.float8 import to_float8
from cogvideox.transformer.model import Transformer
from cogvideox.vae.config import VAEConfig


def pipelines(run: Run, preset: str) -> tuple[CogVideoX, Any, dict[str, Any]]:
    """Build both pipelines with the same random weights, and the prompt embeddings for diffusers.

    Both use a T5 with one layer, because the time of the real one is negligible.
    """
    config, size = config_of(run, preset)
    options: dict[str, Any] = {"seed": run.seed, "device": run.device, "dtype": torch.bfloat16}
    pair = transformers(config, size, batch=1, **options)
    vae, diffusers_vae = vaes(TINY_VAE if run.tiny else replace(VAEConfig(), scaling_factor=0.7), **options)
    tokenizer = Tokenizer.from_folder(ROOT / "cogvideox/models/toybox/tokenizer")
    text = T5Encoder(T5Config(len(tokenizer), config.text_embed_dim, d_ff=64, num_layers=1, num_heads=1))
    init_weights(text, torch.Generator().manual_seed(run.seed))
    text = text.eval().requires_grad_(False).to(run.device, torch.bfloat16)
    schedule = SCHEDULES[preset]()
    settings = official_settings(config, vae.config, "ddim")
    spec = ModelSpec("random", Path(), config, vae.config, text.config, schedule, settings)
    model = LoadedModel(pair.cogvideox, vae, text, tokenizer, Schedule(**asdict(schedule)), settings)
    cogvideox = CogVideoX(spec, model, torch.device(run.device), torch.bfloat16)
    diffusers = None
    if HAS_DIFFUSERS:
        from diffusers import CogVideoXDDIMScheduler, CogVideoXPipeline

        scheduler = CogVideoXDDIMScheduler.from_config(schedule.to_diffusers("ddim"))
        diffusers = CogVideoXPipeline(None, None, diffusers_vae, pair.diffusers, scheduler)
        diffusers.set_progress_bar_config(disable=True)

    def embed(prompt: str) -> Tensor:
        return text(tokenizer.encode([prompt], settings.text_length).to(run.device))

    return cogvideox, diffusers, {"prompt_embeds": embed(PROMPT), "negative_prompt_embeds": embed("")}


PROMPT = "a red ball"


class EveryOther(StepCache):
    """Computes every other step, like the shipped model at an error budget of 0.02 (docs/speed.md).

    With random weights, the criterion of the step cache, the change of the velocity, is meaningless.
    """

    def _error_weight(self, i: int) -> float:
        return 0.0 if self.computed_at == i - 1 else math.inf


def measure_generation(run: Run, preset: str) -> None:
    """Measure a generation with every variant: 50 steps and the VAE, from prompt embeddings to frames."""
    config, (t, h, w) = config_of(run, preset)
    cogvideox, diffusers, texts = pipelines(run, preset)
    size = {"num_frames": 4 * t - 3, "height": 8 * h, "width": 8 * w}
    steps = 3 if run.tiny else run.options.steps

    def generate_with_diffusers(num_steps: int) -> Tensor:
        # Sampled in float32 as in this package; bfloat16 would give different noise.
        noise = torch.randn(1, t, config.out_channels, h, w, generator=torch.Generator().manual_seed(run.seed))
        values = {**size, **texts, "num_inference_steps": num_steps, "guidance_scale": 6.0}
        latents = noise.to(run.device, torch.bfloat16)
        return torch.from_numpy(diffusers(**values, latents=latents, output_type="np").frames[0])

    def generate_with_cogvideox(num_steps: int, **values: Any) -> Tensor:
        values = {"guidance_scale": 6.0, "dynamic_guidance": False, "sampler": "ddim", **size, **values}
        video = cogvideox.generate(PROMPT, **values, num_inference_steps=num_steps, seed=run.seed, output="float")
        return torch.from_numpy(video.frames)

    @cache
    def compiled_transformer(float8: bool) -> Transformer:
        network = share_weights(cogvideox.model.transformer)
        if float8:
            to_float8(network)
        compile_blocks(network)
        return network

    def compiled_variant(float8: bool, **values: Any) -> Callable[[int], Tensor]:
        return lambda num_steps: _with_transformer(
            cogvideox, compiled_transformer(float8), lambda: generate_with_cogvideox(num_steps, **values)
        )

    def every_other(num_steps: int) -> Tensor:
        original, denoise.StepCache = denoise.StepCache, EveryOther
        try:
            return compiled_variant(float8=True, cache=0.02)(num_steps)
        finally:
            denoise.StepCache = original

    variants: dict[str, tuple[int, Callable[[int], Tensor]]] = {
        "diffusers": (steps, generate_with_diffusers),
        "cogvideox, compiled": (steps, compiled_variant(float8=False)),
        "cogvideox, fp8, compiled": (steps, compiled_variant(float8=True)),
        "cogvideox, fp8 and cache, compiled": (steps, every_other),
        "cogvideox, dpm++ in half the steps, compiled": (
            math.ceil(steps / 2),
            compiled_variant(float8=False, sampler="dpm++"),
        ),
        "cogvideox": (steps, generate_with_cogvideox),
    }
    if not HAS_DIFFUSERS:
        del variants["diffusers"]
    limit = run.limit / 3
    results: dict[str, dict[str, Any]] = {}
    reference: Tensor | None = None
    for name, (num_steps, generate_video) in variants.items():
        _, reason = run.attempt(
            f"{name}, first step", lambda generate_video=generate_video: generate_video(1), limit
        )  # compiles and fills caches
        start = time.perf_counter()
        frames, reason = (
            (None, reason)
            if reason
            else run.attempt(name, lambda generate_video=generate_video, n=num_steps: generate_video(n), limit)
        )
        synchronize(run.device)
        if frames is None:
            results[name] = {"failed": reason}
        else:
            reference = frames if reference is None else reference
            elapsed = time.perf_counter() - start
            results[name] = {"median": elapsed, "num_steps": num_steps, "psnr_db": psnr(frames, reference)}
            if eager := results.get("diffusers", {}).get("median"):
                results[name]["ratio"] = eager / elapsed
        run.rows.clear()  # written again after each variant, so that a crash loses nothing
        run.add({"task": f"generation, {preset}", "reference": next(iter(variants)), "variants": results})


def _with_transformer(cogvideox: CogVideoX, transformer: Transformer, generate_video: Callable[[], Tensor]) -> Tensor:
    """Call `generate_video` with another transformer in the pipeline."""
    original, cogvideox.model = cogvideox.model, replace(cogvideox.model, transformer=transformer)
    try:
        return generate_video()
    finally:
        cogvideox.model = original


def psnr(frames: Tensor, reference: Tensor) -> float | None:
    """Return the PSNR in dB of frames in 0..1; None if they are equal."""
    error = (frames - reference).square().mean().item()
    return None if error == 0 else -10 * math.log10(error)
