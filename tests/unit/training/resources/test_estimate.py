"""Resource estimates agree with the run."""

import math
from dataclasses import replace

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from cogvideox.dataset.config import StoreSettings
from cogvideox.dataset.latents.latent_store import INDEX, write_index
from cogvideox.dataset.mixture import DataSource
from cogvideox.hardware.gpus import UNKNOWN_GPU, Rates
from cogvideox.parallel.parallelize import parallelize
from cogvideox.pretrained.model_spec import read_spec
from cogvideox.pretrained.offload.hardware import Hardware, hypothetical_gpu
from cogvideox.pretrained.offload.transformer_cost import BatchShape, transformer_parameters
from cogvideox.text.encoder import T5Encoder
from cogvideox.training.config import OptimSettings
from cogvideox.training.diffusion.trainer import build_transformer
from cogvideox.training.optim.optimizers import build_optimizer, muon_flops
from cogvideox.training.recipes import RECIPES
from cogvideox.training.resources.estimate import estimate, format_estimate
from cogvideox.training.resources.fit import check_fit, suggest_changes
from cogvideox.training.resources.forward_cost import (
    ForwardCost,
    _Operations,
    _row_forward,
    transformer_activations,
    transformer_forward,
    with_recomputation,
)
from cogvideox.training.text_encoder.config import TextEncoderTraining
from cogvideox.training.text_encoder.decoder import SpanCorruptionModel
from cogvideox.training.toybox.recipes import CHAIN, toybox_transformer
from cogvideox.training.vae.trainer import reconstruct
from cogvideox.transformer.lora.config import LoRASettings
from cogvideox.transformer.model import Transformer
from cogvideox.vae.model import CausalVAE
from tests import tiny, tiny_runs

H100 = hypothetical_gpu("H100", 80)
CPU = Hardware("cpu", "cpu", 0, 0, "float32", Rates(math.inf, math.inf, math.inf, 1.0))
"""A CPU on which matrix products take no time, but elementwise operations and calls do."""


def saved_bytes(network: torch.nn.Module, run) -> int:
    """Return the bytes that autograd saves in a forward pass."""
    weights, saved = {weight.untyped_storage()._cdata for weight in network.parameters()}, {}

    def save(tensor):
        saved[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with saved_tensors_hooks(save, lambda tensor: tensor):
        out = run()
    del out
    return sum(tensor.untyped_storage().nbytes() for key, tensor in saved.items() if key not in weights)


def test_activation_bytes_of_a_packed_row():
    config = replace(tiny.transformer("5b"), num_layers=5)
    row, model = [BatchShape(1, 3, 4, 6, 12), BatchShape(1, 3, 4, 6, 12)], Transformer(config)
    latents, text = [torch.randn(4, 3, 4, 6) for _ in row], torch.randn(2, 12, 32)
    measured = saved_bytes(model, lambda: model.forward_packed(latents, text, torch.tensor([5.0, 500.0])))
    expected = {mode: transformer_activations(config, row, "float32", mode) for mode in ("none", "selective", "full")}
    assert expected["none"] == pytest.approx(measured, rel=0.15)
    assert expected["full"] < expected["selective"] < 0.6 * expected["none"]
    assert transformer_activations(config, row, "float32", "none", all_weights=False) < expected["none"]


def test_forward_cost_is_extrapolated_to_all_layers():
    config, row = replace(tiny.transformer("5b"), num_layers=5), [BatchShape(1, 3, 4, 6, 12)] * 2
    assert transformer_forward(config, row, "float32") == _row_forward(config, tuple(row), "float32", True)


def test_on_a_cpu_a_step_also_takes_the_time_of_small_operations():
    """With infinitely fast matrix products, the time of elementwise operations and of calls remains, and it grows with
    the number of rows. A GPU has no such overhead."""
    settings = RECIPES["toybox-sft"]()
    larger = replace(settings, run=replace(settings.run, batch_size=2))
    seconds, doubled = (estimate(run, CPU).seconds for run in (settings, larger))
    assert 0.02 < seconds < 0.5 and seconds < doubled < 2 * seconds
    assert estimate(settings, replace(CPU, device_type="cuda", rates=replace(CPU.rates, peak=1.0))).seconds == 0


def test_up_to_eight_threads_share_the_elementwise_operations_but_not_the_calls():
    settings = RECIPES["toybox-sft"]()
    seconds = {n: estimate(settings, replace(CPU, num_threads=n)).seconds for n in (1, 2, 4, 8, 16)}
    parallel = 2 * (seconds[1] - seconds[2])  # seconds of the elementwise operations on one thread
    calls = seconds[1] - parallel
    assert parallel > 0 and calls > 0
    for num_threads in (2, 4, 8):
        assert seconds[num_threads] == pytest.approx(calls + parallel / num_threads)
    assert seconds[16] == seconds[8]


def text_encoder_run(optimizer: str) -> TextEncoderTraining:
    settings = RECIPES["toybox-text-encoder"]()
    assert isinstance(settings, TextEncoderTraining)
    return replace(settings, optim=replace(settings.optim, name=optimizer))


def test_the_estimate_of_a_text_encoder_includes_small_operations_activations_and_muon():
    settings = text_encoder_run("muon")
    machine = replace(CPU, rates=Rates(1e11, 1e11, 1e11, 1.0))
    model = SpanCorruptionModel(T5Encoder(settings.model), settings.num_decoder_layers)
    source, target = (torch.ones(settings.run.batch_size, n, dtype=torch.long) for n in (40, 42))
    assert settings.text_length == 40
    muon, adamw = (estimate(text_encoder_run(name), machine) for name in ("muon", "adamw"))
    assert muon.memory["activations"] == pytest.approx(saved_bytes(model, lambda: model(source, target)), rel=0.15)
    assert muon.seconds - adamw.seconds == pytest.approx(muon_flops([model]) / 1e11)
    with FlopCounterMode(display=False) as products:
        model.to("meta")(source.to("meta"), target.to("meta")).sum().backward()
    small_operations = estimate(text_encoder_run("adamw"), CPU).seconds
    assert adamw.seconds - small_operations == pytest.approx(products.get_total_flops() / 1e11, rel=0.1)
    assert 0.5 < small_operations / (adamw.seconds - small_operations) < 3


def test_the_estimate_of_muon_is_the_flops_of_its_step():
    model = Transformer(replace(tiny.transformer("5b"), num_layers=2))
    optimizer = build_optimizer([model], OptimSettings(name="muon"))
    for weight in model.parameters():
        weight.grad = torch.randn_like(weight)
    with FlopCounterMode(display=False) as counter:
        optimizer.step()
    assert muon_flops([model]) == counter.get_total_flops()
    settings = RECIPES["toybox-pretrain-480"]()
    machine = replace(CPU, rates=Rates(1e11, 1e11, 1e11, 1.0))
    seconds = {
        name: estimate(replace(settings, optim=OptimSettings(name=name)), machine).seconds for name in ("muon", "adamw")
    }
    network = Transformer(read_spec("toybox").transformer)
    assert seconds["muon"] - seconds["adamw"] == pytest.approx(muon_flops([network]) / 1e11)


def test_recomputation_takes_a_third_of_the_time_of_small_operations():
    settings = RECIPES["toybox-sft"]()
    resources = {mode: estimate(replace(settings, checkpointing=mode), CPU) for mode in ("none", "selective", "full")}
    optimizer = 40 * resources["none"].trained / 8e9
    none, selective, full = (each.seconds - optimizer for each in resources.values())
    assert full == pytest.approx(4 / 3 * none, rel=1e-4)
    assert 1.25 * none < selective < full


def test_bytes_of_recomputation_are_those_of_a_backward_pass():
    config, row = replace(tiny.transformer("5b"), num_layers=5), [BatchShape(1, 3, 4, 6, 12)] * 2
    latents, text = [torch.randn(4, 3, 4, 6) for _ in row], torch.randn(2, 12, 32)
    written: dict[str, int] = {}
    for mode in ("none", "selective", "full"):
        model = Transformer(config)
        parallelize(model, model.blocks, checkpointing=mode)
        with _Operations() as operations:
            sum(x.sum() for x in model.forward_packed(latents, text, torch.tensor([5.0, 500.0]))).backward()
        written[mode] = operations.written
    forward = transformer_forward(config, row, "float32")
    assert with_recomputation(forward, config, row, "float32", "none") == forward
    for mode in ("selective", "full"):
        scaled = with_recomputation(forward, config, row, "float32", mode)
        assert 3 * (scaled.written - forward.written) == pytest.approx(written[mode] - written["none"], rel=0.1)
    assert with_recomputation(ForwardCost(7, 300, 30), config, row, "float32", "full") == ForwardCost(7, 400, 40)


@pytest.mark.parametrize("whole_clips", [False, True])
def test_activation_bytes_of_a_vae(whole_clips):
    settings = replace(tiny_runs.vae_run(), whole_clips=whole_clips)
    vae, shape = CausalVAE(settings.model), (settings.clips.num_frames, settings.clips.height, settings.clips.width)
    noise = torch.randn(1, 4, 2, 2, 2)
    measured = saved_bytes(vae, lambda: reconstruct(vae, torch.randn(1, 3, *shape), noise))
    resources = estimate(settings, None)
    assert resources.memory["activations"] == pytest.approx(settings.run.batch_size * measured, rel=0.15)
    assert resources.parameters == sum(weight.numel() for weight in vae.parameters())


@pytest.mark.parametrize("name", CHAIN)
def test_stages_of_the_shipped_model_are_estimated_before_their_base_model_exists(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    resources = estimate(CHAIN[name](), None)
    assert resources is not None and resources.parameters == transformer_parameters(toybox_transformer()).total


@pytest.mark.parametrize("name", ["toybox-lora", "toybox-sft", "toybox-pretrain-256"])
def test_estimated_weights_and_optimizer_state_equal_those_of_the_run(name):
    from cogvideox.pretrained.model_spec import read_spec

    settings = RECIPES[name]()
    model, trainable = build_transformer(settings, read_spec("toybox"))
    resources = estimate(settings, None)
    trained = list(trainable.parameters())
    factors = sum(weight.numel() for weight in trained) if settings.lora else 0
    assert resources.parameters + factors == sum(weight.numel() for weight in model.parameters())
    assert resources.trained == sum(weight.numel() for weight in trained)
    optimizer = build_optimizer([trainable], settings.optim)
    for weight in trained:
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    members = getattr(optimizer, "optimizers", [optimizer])
    states = [state for member in members for state in member.state.values()]
    moments = sum(value.nbytes for state in states for value in state.values() if value.ndim > 0)
    assert resources.memory["optimizer"] == moments
    assert resources.memory["gradients"] == resources.memory["EMA"] == sum(weight.nbytes for weight in trained)


def test_estimate_of_a_lora_of_an_official_model():
    resources = estimate(RECIPES["lora"](), H100)
    assert resources.parameters == 5_570_283_072 and resources.trained == 42 * 4 * 64 * (3072 + 3072)
    lines = format_estimate(resources, 1_000, H100, 1)
    assert "72,000 tokens in 4 rows of 18,000" in lines[0]
    assert "66,060,288 of them trained" in lines[1]
    assert lines[2].endswith("79.3 GiB free") and lines[3].endswith("on H100")


def test_learned_positions_determine_the_clip_size():
    settings = replace(RECIPES["lora"](), model="cogvideox-5b-i2v")
    target = replace(settings.target, height=None, width=None, max_area=480 * 720)
    resources = estimate(replace(settings, target=target), None)
    assert resources.memory == estimate(settings, None).memory and "345,600 pixels" in resources.step


def test_the_clip_format_of_a_store_takes_precedence(tmp_path):
    """`settings.target` is for folders that are not encoded yet."""
    settings = RECIPES["toybox-sft"]()
    store_format = replace(settings.target, num_frames=17, height=96, width=64)
    store = StoreSettings("toybox", "v", "t", 16, 1.0, 8, 32, 128, store_format)
    write_index(tmp_path / "store" / INDEX, store, [])
    (tmp_path / "videos").mkdir()
    for names, expected in (
        (["store"], "17 frames of 64x96"),
        (["videos"], "9 frames of 64x64"),
        (["videos", "store"], "17"),
    ):
        data = tuple(DataSource(str(tmp_path / name)) for name in names)
        assert f"clips of at most {expected}" in estimate(replace(settings, data=data), None).step


def test_several_processes_share_memory_and_time():
    """The base model is that of the previous stage, which need not exist."""
    settings = RECIPES["pretrain-768"]()
    single, shared = (estimate(replace(settings, checkpointing="none"), H100, num_ranks) for num_ranks in (1, 8))
    assert single.parameters == 5_570_283_072
    for part in ("gradients", "optimizer", "EMA"):
        assert shared.memory[part] == single.memory[part] // 8
    assert shared.seconds == pytest.approx(single.seconds / 8)
    assert "for each of 8 processes" in format_estimate(shared, 10, H100, 8)[2]


def test_unknown_models_or_hardware_have_no_estimate():
    settings = RECIPES["sft"]()
    assert estimate(replace(settings, model="my/other-model"), H100) is None
    assert format_estimate(None, 10, H100, 1) == [
        "the resources of this run are unknown until its base model is available"
    ]
    # The rates of the CPU are those of another precision.
    cpu = Hardware("cpu", "cpu", 0, 0, "float32", UNKNOWN_GPU)
    unknown_gpu = Hardware("cuda", "cuda", 0, 0, "bfloat16", UNKNOWN_GPU)
    assert [estimate(settings, machine).seconds for machine in (cpu, unknown_gpu, None)] == [None] * 3
    assert len(format_estimate(estimate(settings, None), 10, None, 1)) == 3


def test_lora_training_of_the_5b_model_fits_in_24_gb():
    resources = estimate(RECIPES["lora"](), H100)
    assert resources.memory["weights"] == pytest.approx(2 * resources.parameters + 6 * resources.trained, rel=0.05)
    assert sum(resources.memory.values()) < 22e9


@pytest.mark.parametrize(("base_weights", "gibibytes"), [("int8", 16), ("nf4", 12)])
def test_lora_training_of_the_5b_model_on_quantized_weights_fits_on_smaller_gpus(base_weights, gibibytes):
    settings = RECIPES["lora"]()
    assert settings.lora is not None
    smaller = replace(settings, lora=replace(settings.lora, base_weights=base_weights))
    machine = hypothetical_gpu("", gibibytes, "bfloat16")
    for run, fits in ((settings, False), (smaller, True)):
        resources = estimate(run, machine)
        assert resources is not None and check_fit(resources, machine).fits == fits
    assert any(base_weights in change for change in suggest_changes(settings, machine))


@pytest.mark.parametrize("base_weights", ["int8", "nf4"])
def test_the_estimated_weights_are_those_of_the_quantized_model(base_weights):
    settings = replace(RECIPES["toybox-lora"](), lora=LoRASettings(base_weights=base_weights))
    model, _ = build_transformer(settings, read_spec("toybox"))
    stored = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()) if tensor.dtype != torch.int64)
    dequantized = 4 * 4 * model.config.width**2  # the largest matrix, in float32
    resources = estimate(settings, None)
    assert resources is not None and resources.memory["weights"] == pytest.approx(stored + dequantized, rel=0.03)
