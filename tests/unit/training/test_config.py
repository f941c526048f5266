"""Training configs: recipes are consistent, and invalid settings are rejected."""

from dataclasses import replace

import pytest
import torch

from cogvideox import config
from cogvideox.errors import UserError
from cogvideox.training.config import due
from cogvideox.training.recipes import RECIPES
from cogvideox.transformer.model import Transformer

NAN = float("nan")


@pytest.mark.parametrize(
    ("recipe", "changes", "message"),
    [
        ("toybox", {"run.save_interval": -1}, "run.save_interval=-1 must be at least 0"),
        ("toybox", {"run.batch_size": 0}, "run.batch_size=0 must be at least 1"),
        ("toybox", {"run.workers": -1}, "run.workers=-1 must be at least 0"),
        ("toybox", {"run.precision": "float16"}, "run.precision must be one of auto, float32, bfloat16"),
        ("toybox", {"run.ema_decay": 1.0}, "run.ema_decay=1.0 must be in [0, 1)"),
        ("toybox", {"optim.lr": 0.0}, "optim.lr=0.0 must be above 0"),
        ("toybox", {"optim.lr": NAN}, "optim.lr=nan"),
        (
            "toybox-lora",
            {"samples.height": 50},
            "samples.height=50 is not a multiple of 16 pixels; the nearest are 48 or 64",
        ),
        ("toybox-lora", {"samples.num_frames": 10}, "samples.num_frames=10 is not allowed"),
        ("toybox-lora", {"samples.num_inference_steps": 0}, "samples.num_inference_steps=0 must be at least 1"),
        ("toybox", {"optim.betas": (0.9, 1.0)}, "optim.betas=(0.9, 1.0)"),
        ("toybox", {"optim.weight_decay": -0.1}, "optim.weight_decay=-0.1"),
        ("toybox", {"optim.final_lr": 2.0}, "optim.final_lr=2.0"),
        ("toybox", {"sampling.num_inference_steps": 0}, "sampling.num_inference_steps=0"),
        ("toybox", {"sampling.num_inference_steps": 1001}, "must be at most the number of timesteps, 1000"),
        ("toybox", {"sampling.guidance_scale": 0.5}, "sampling.guidance_scale=0.5"),
        ("toybox", {"sampling.num_prompts": 0}, "sampling.num_prompts=0"),
        ("toybox", {"caption_styles": ()}, "caption_styles is empty"),
        ("toybox", {"caption_styles": ("free",)}, "remove it from caption_styles, or set clips.grammar=pair"),
        ("toybox", {"caption_styles": ("verse",)}, "must be one of short, plain, dense"),
        ("toybox", {"transformer.in_channels": 32}, "supports text-to-video models only"),
        ("toybox", {"transformer.ofs_embed_dim": 128}, "supports text-to-video models only"),
        ("toybox", {"text_encoder.d_model": 64}, "transformer.text_embed_dim=128 must equal"),
        ("toybox", {"clips.num_clips": 0}, "num_clips=0 of the toybox clips"),
        ("toybox", {"clips.num_frames": 10}, "4k+1"),
        ("toybox", {"clips.grammar": "grand"}, "clips.grammar must be one of core, full"),
        ("toybox", {"clips.fps": 0.0}, "fps=0.0 of the toybox clips"),
        ("toybox", {"validation.grammar": "full"}, "validation.grammar=full must equal clips.grammar=core"),
        ("toybox", {"clips.grammar": "full", "validation.grammar": "full"}, "it must be at least 44"),
        ("toybox-vae", {"optim.name": "muon"}, "a VAE has none: use adamw"),
        ("toybox-vae", {"crop_size": 128}, "crop_size=128 must be a multiple of 8 pixels and no larger than the clips"),
        ("toybox-vae", {"crop_size": 128}, "the nearest is 64"),
        ("toybox-vae", {"crop_size": 30}, "the nearest is 32"),
        ("toybox-vae", {"crop_batch_size": 0}, "crop_batch_size=0"),
        ("toybox-vae", {"images_per_clip": 0}, "images_per_clip=0"),
        ("toybox-vae", {"image_interval": -1}, "image_interval=-1"),
        ("toybox-vae", {"clips.height": 60}, "height=60 is not a multiple of 8"),
        ("toybox-vae", {"loss.kl": -1.0}, "loss.kl=-1.0 must be at least 0"),
        ("toybox-vae", {"loss.l2": NAN}, "loss.l2=nan must be at least 0"),
        ("toybox-vae", {"loss.l1": 0.0, "loss.l2": 0.0}, "one of them must be above 0"),
        ("toybox-vae", {"sampling.interval": 5}, "unknown setting sampling"),
        ("toybox", {"sampling.interval": -1}, "sampling.interval=-1 must be at least 0"),
        ("toybox-vae", {"model.in_channels": 1}, "model.in_channels=1 must be 3"),
    ],
)
def test_invalid_settings_are_rejected(recipe, changes, message):
    with pytest.raises(UserError) as error:
        config.override(RECIPES[recipe](), changes)
    assert message in str(error.value)


def test_num_samples_counts_clips_and_images():
    """3 of 10 steps have images, twice as many as clips."""
    changes = {"run.num_steps": 10, "run.batch_size": 4, "image_interval": 3, "images_per_clip": 2}
    assert config.override(RECIPES["toybox"](), changes).num_samples(10) == 7 * 4 + 3 * 8
    assert config.override(RECIPES["toybox"](), changes | {"image_interval": 0}).num_samples(10) == 40


def test_crop_size_is_not_checked_without_crops():
    assert config.override(RECIPES["toybox-vae"](), {"crop_steps": 0, "crop_size": 0}).crop_size == 0


def test_gpu_recipes_match_the_cpu_recipes():
    """They use the same clips and VAE, and the exported transformer fits in 15 MB."""
    vae, transformer = RECIPES["toybox-vae-gpu"](), RECIPES["toybox-gpu"]()
    assert vae.model == RECIPES["toybox-vae"]().model
    assert transformer.vae == "runs/toybox-vae-gpu"
    assert transformer.export_dtype == "float16"
    with torch.device("meta"):
        num_weights = sum(parameter.numel() for parameter in Transformer(transformer.transformer).parameters())
    assert 12e6 < 2 * num_weights < 15e6
    for gpu, cpu in ((vae, RECIPES["toybox-vae"]()), (transformer, RECIPES["toybox"]())):
        assert replace(gpu.clips, num_clips=1) == replace(cpu.clips, num_clips=1)
        assert gpu.validation == cpu.validation
        assert gpu.run.precision == "bfloat16"


def test_an_action_is_due_at_every_interval_and_never_for_interval_0():
    assert [done for done in range(1, 10) if due(done, 3)] == [3, 6, 9]
    assert not any(due(done, 0) for done in range(1, 10))
