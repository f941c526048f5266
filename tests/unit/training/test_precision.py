"""Stages in bfloat16 on one process: what is stored in it, and that this changes no number."""

from dataclasses import replace

import pytest
import torch

from cogvideox.pretrained.model_spec import read_spec
from cogvideox.training.diffusion.config import DiffusionTraining, LoRASettings, SampleSettings
from cogvideox.training.diffusion.trainer import backward, begin, narrow, train
from cogvideox.transformer.lora.io import read_lora
from tests import tiny_runs
from tests.laws.test_resume import history


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> DiffusionTraining:
    usual = tiny_runs.diffusion_run(tmp_path_factory.mktemp("stage"))
    return replace(
        usual,
        lora=LoRASettings(rank=2),
        run=replace(usual.run, precision="bfloat16", num_steps=2),
        validation=usual.data[0].store,
        samples=SampleSettings(("a red ball",), interval=0, num_inference_steps=2, num_frames=5, height=32, width=32),
    )


def test_frozen_matrices_in_bfloat16_change_nothing(settings, tmp_path, monkeypatch):
    narrowed = read_lora(train(settings, tmp_path / "narrowed"))
    monkeypatch.setattr("cogvideox.training.diffusion.trainer.narrow", lambda model: None)
    wide = read_lora(train(settings, tmp_path / "wide"))
    for name, factors in wide.layers.items():
        assert torch.equal(factors.down, narrowed.layers[name].down) and torch.equal(
            factors.up, narrowed.layers[name].up
        )
    assert history(tmp_path / "narrowed") == history(tmp_path / "wide")
    assert (tmp_path / "narrowed/samples/step-00000002.mp4").is_file()


def test_only_matrices_that_do_not_learn_are_narrow(settings):
    model, _ = begin(settings, read_spec(settings.model))
    narrow(model)
    attention = model.blocks[0].attention
    assert attention.qkv.weight.dtype == model.patch_in.weight.dtype == torch.bfloat16
    assert {attention.qkv.bias.dtype, attention.norm_q.weight.dtype, attention.qkv.loras[0].down0.dtype} == {
        torch.float32
    }
    everything, _ = begin(replace(settings, lora=None), read_spec(settings.model))
    narrow(everything)
    assert {weight.dtype for weight in everything.parameters()} == {torch.float32}


def test_autocast_covers_the_forward_pass_only(settings, tmp_path, monkeypatch):
    """Around the backward pass it would keep the weights' copies in bfloat16, and choose types in custom backwards."""
    forward, backward, on = [], [], lambda: torch.is_autocast_enabled("cpu")

    def observed(*given):
        model, learns = begin(*given)
        block = model.blocks[0]
        block.register_forward_pre_hook(lambda module, args: forward.append(on()) if torch.is_grad_enabled() else None)
        block.attention.qkv.loras[0].up0.register_hook(lambda grad: backward.append(on()))
        return model, learns

    monkeypatch.setattr("cogvideox.training.diffusion.trainer.begin", observed)
    train(replace(settings, samples=SampleSettings(), validation=None), tmp_path)
    assert len(forward) == len(backward) >= 2 and all(forward) and not any(backward)


@pytest.mark.parametrize("deterministic", [False, True])
def test_deterministic_steps(settings, tmp_path, monkeypatch, deterministic):
    seen = []
    monkeypatch.setattr(
        "cogvideox.training.diffusion.trainer.backward",
        lambda *args: seen.append(torch.are_deterministic_algorithms_enabled()) or backward(*args),
    )
    run = replace(settings.run, deterministic=deterministic)
    train(replace(settings, run=run, samples=SampleSettings(), validation=None), tmp_path)
    assert seen == [deterministic] * run.num_steps
    assert not torch.are_deterministic_algorithms_enabled()
