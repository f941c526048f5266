"""Precision of training: `auto`, and the cast of frozen weights, which does not change the results."""

from dataclasses import replace

import pytest
import torch

from cogvideox import config
from cogvideox.hardware.cpu_probe import CPUProbe, KernelRates, fixed_probe
from cogvideox.pretrained.model_spec import read_spec
from cogvideox.training.diffusion.config import DiffusionTraining, SampleSettings
from cogvideox.training.diffusion.trainer import accumulate_gradients, build_transformer, cast_frozen_weights, train
from cogvideox.training.precision import choose_precision, with_precision
from cogvideox.transformer.lora.config import LoRASettings
from cogvideox.transformer.lora.io import read_lora
from tests import tiny_runs
from tests.laws.test_resume import history


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> DiffusionTraining:
    base = tiny_runs.diffusion_run(tmp_path_factory.mktemp("stage"))
    return replace(
        base,
        lora=LoRASettings(rank=2),
        run=replace(base.run, precision="bfloat16", num_steps=2),
        validation=base.data[0].store,
        samples=SampleSettings(("a red ball",), interval=0, num_inference_steps=2, num_frames=5, height=32, width=32),
    )


def test_casting_frozen_matrices_to_bfloat16_does_not_change_the_lora(settings, tmp_path, monkeypatch):
    cast = read_lora(train(settings, tmp_path / "cast"))
    monkeypatch.setattr("cogvideox.training.diffusion.trainer.cast_frozen_weights", lambda model: None)
    full = read_lora(train(settings, tmp_path / "full"))
    for name, factors in full.layers.items():
        assert torch.equal(factors.down, cast.layers[name].down) and torch.equal(factors.up, cast.layers[name].up)
    assert history(tmp_path / "cast") == history(tmp_path / "full")
    assert (tmp_path / "cast/samples/step-00000002.mp4").is_file()


def probe(speedup: float) -> CPUProbe:
    return CPUProbe("test", {"float32": KernelRates(*[1e11] * 4), "bfloat16": KernelRates(*[speedup * 1e11] * 4)})


def test_auto_precision_is_chosen_by_the_probe_and_kept_on_resume(settings, tmp_path):
    auto = replace(settings, run=replace(settings.run, precision="auto", device="cpu", num_steps=1))
    for speedup, precision in ((4.0, "bfloat16"), (1.2, "float32"), (0.1, "float32")):
        with fixed_probe(probe(speedup)):
            assert with_precision(auto).run.precision == precision
    with fixed_probe(CPUProbe("test", {"float32": KernelRates(*[1e11] * 4)})):
        assert with_precision(auto, tmp_path / "missing", resume=True).run.precision == "float32"
    with fixed_probe(probe(4.0)):
        train(auto, tmp_path / "run")
    assert config.read_data(tmp_path / "run/settings.yaml")["run"]["precision"] == "bfloat16"
    with fixed_probe(probe(0.1)):
        assert with_precision(auto, tmp_path / "run", resume=True).run.precision == "bfloat16"
        assert with_precision(auto, tmp_path / "run").run.precision == "float32"
    assert with_precision(settings) is settings


def test_auto_precision_of_several_processes_is_that_of_their_device(monkeypatch):
    """With fewer GPUs than processes, the processes run on the CPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "0")
    for num_ranks, precision in (("1", "bfloat16"), ("2", "float32")):
        monkeypatch.setenv("WORLD_SIZE", num_ranks)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", num_ranks)
        assert choose_precision("auto") == precision


def test_only_frozen_matrices_are_cast(settings):
    model, _ = build_transformer(settings, read_spec(settings.model))
    cast_frozen_weights(model)
    attention = model.blocks[0].attention
    assert attention.qkv.weight.dtype == model.patch_in.weight.dtype == torch.bfloat16
    assert {attention.qkv.bias.dtype, attention.norm_q.weight.dtype, attention.qkv.loras[0].down0.dtype} == {
        torch.float32
    }
    trainable, _ = build_transformer(replace(settings, lora=None), read_spec(settings.model))
    cast_frozen_weights(trainable)
    assert {weight.dtype for weight in trainable.parameters()} == {torch.float32}


def test_autocast_covers_the_forward_pass_only(settings, tmp_path, monkeypatch):
    """Under autocast the backward pass would keep bfloat16 copies of the weights, and cast in custom functions."""
    forward, backward, enabled = [], [], lambda: torch.is_autocast_enabled("cpu")

    def with_hooks(*args):
        model, trainable = build_transformer(*args)
        block = model.blocks[0]
        block.register_forward_pre_hook(
            lambda module, args: forward.append(enabled()) if torch.is_grad_enabled() else None
        )
        block.attention.qkv.loras[0].up0.register_hook(lambda grad: backward.append(enabled()))
        return model, trainable

    monkeypatch.setattr("cogvideox.training.diffusion.trainer.build_transformer", with_hooks)
    train(replace(settings, samples=SampleSettings(), validation=None), tmp_path)
    assert len(forward) == len(backward) >= 2 and all(forward) and not any(backward)


@pytest.mark.parametrize("deterministic", [False, True])
def test_deterministic_kernels_are_enabled_during_the_run_only(settings, tmp_path, monkeypatch, deterministic):
    seen = []
    monkeypatch.setattr(
        "cogvideox.training.diffusion.trainer.accumulate_gradients",
        lambda *args: seen.append(torch.are_deterministic_algorithms_enabled()) or accumulate_gradients(*args),
    )
    run = replace(settings.run, deterministic=deterministic)
    train(replace(settings, run=run, samples=SampleSettings(), validation=None), tmp_path)
    assert seen == [deterministic] * run.num_steps
    assert not torch.are_deterministic_algorithms_enabled()
