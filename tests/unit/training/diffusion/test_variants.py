"""Diffusion training of variants, and settings that exclude each other."""

from dataclasses import replace

import pytest

from cogvideox.dataset.config import ClipFormat, ToyboxClips, ToyboxSource
from cogvideox.diffusion.config import ScheduleConfig
from cogvideox.errors import UserError
from cogvideox.generation.pipeline import CogVideoX
from cogvideox.pretrained.model_spec import read_spec
from cogvideox.training.config import OptimSettings, RunSettings
from cogvideox.training.diffusion.config import DiffusionTraining
from cogvideox.training.diffusion.recipes import RECIPES
from cogvideox.training.diffusion.trainer import train
from cogvideox.transformer.config import TransformerConfig

SIZE = {"num_frames": 5, "height": 32, "width": 32}
CLIPS = ToyboxClips(num_clips=6, **SIZE)


@pytest.mark.parametrize(
    "variant",
    [
        {"attention": "factorized", "separate_weights": "all", "ffn_dim": 48},
        {"separate_weights": "none", "use_learned_positional_embeddings": True},
    ],
)
def test_variants_are_trained_exported_and_sampled(variant, tmp_path):
    sizes = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 16}
    sizes |= {"sample_height": 4, "sample_width": 4, "sample_frames": 5}
    settings = DiffusionTraining(
        model="toybox",
        transformer=replace(read_spec("toybox").transformer, **sizes, **variant),
        row_tokens=160,
        optim=OptimSettings(lr=1e-2, warmup_steps=1),
        run=RunSettings(num_steps=2, batch_size=2, device="cpu"),
        target=ClipFormat(fps=8.0, **SIZE),
        toybox=tuple(ToyboxSource(clips, 1.0, ("short",)) for clips in (replace(CLIPS, first_frames=True), CLIPS)),
        schedule=ScheduleConfig(snr_shift_scale=1.0, rescale_betas_zero_snr=False, prediction_type="epsilon"),
        packing="buckets",
        timestep_sampling="explicit_uniform_ranks",
        timestep_ranks=2,
        export_dtype="float32",
    )
    exported = train(settings, tmp_path / "run")
    spec = read_spec(exported)
    assert spec.schedule == settings.schedule and spec.transformer == settings.transformer
    video = CogVideoX.from_pretrained(exported).generate("a red ball", num_inference_steps=2, seed=0, **SIZE)
    assert video.frames.shape == (5, 32, 32, 3)


@pytest.mark.parametrize("variant", [{"attention": "factorized"}, {"separate_weights": "all"}])
def test_compilation_is_refused_for_blocks_that_depend_on_the_packing(variant):
    settings = RECIPES["pretrain-256"]()
    run = replace(settings.run, compile=True)
    assert replace(settings, run=run, transformer=TransformerConfig()).run.compile
    with pytest.raises(UserError, match=r"set run\.compile=false"):
        replace(settings, run=run, transformer=TransformerConfig(**variant))


def test_a_lora_has_no_schedule():
    with pytest.raises(UserError, match="a LoRA file has no noise schedule"):
        replace(RECIPES["lora"](), schedule=ScheduleConfig())
