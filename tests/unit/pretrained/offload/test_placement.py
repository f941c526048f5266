"""A model gives the same outputs in every placement."""

from dataclasses import replace

import pytest
import torch

from cogvideox.errors import UserError
from cogvideox.pretrained import model_folder
from cogvideox.pretrained.model_spec import read_spec
from cogvideox.pretrained.offload import memory_planner
from cogvideox.pretrained.offload.hardware import UNKNOWN_CPU, Hardware
from cogvideox.pretrained.offload.placement import place_model, profile_model
from cogvideox.pretrained.offload.plan import Workload
from cogvideox.pretrained.offload.vae_cost import VAESlicing
from cogvideox.pretrained.offload.weight_quantization import QuantizedMatrix, fake_quantize_
from cogvideox.state_dict.safetensors_io import load_state, save_state
from cogvideox.transformer.lora import inject
from tests import tiny

CPU = torch.device("cpu")
HARDWARE = Hardware("cpu", "CPU", 2**32, 2**32, "float32", UNKNOWN_CPU)
WORKLOAD = Workload(num_frames=9, height=32, width=48, num_inference_steps=2, window_frames=9)


@pytest.fixture(scope="module", params=["2b", "1.5-5b-i2v"])
def spec(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / request.param
    return read_spec(model_folder.save(tiny.model(request.param), path, dtype=torch.bfloat16, max_shard_bytes=20_000))


def place(spec, strategies, weight_format="exact", weight_location=None):
    plan = memory_planner.estimate_plan(
        profile_model(spec), WORKLOAD, HARDWARE, strategies, VAESlicing(), weight_format
    )
    plan = plan if weight_location is None else replace(plan, weight_location=weight_location)
    return place_model(spec, plan, CPU, torch.float32)


@torch.inference_mode()
def outputs(run, calls=2):
    """Run text encoder and transformer in the order of a generation, `calls` times, and return their outputs."""
    config, results = run.transformer.config, []
    for _ in range(calls):
        run.activate("text_encoder")
        text = run.text_encoder(torch.arange(24).view(2, 12))
        run.activate("transformer")
        ofs = None if config.ofs_embed_dim is None else 2.0
        tables = run.transformer.precompute_modulation(torch.tensor([999, 3]), ofs)
        x = torch.randn(2, config.in_channels, 2, 4, 6, generator=torch.Generator().manual_seed(0))
        for step in range(2):
            x = x + run.transformer(x, text, None, modulation=tables[step]).repeat(1, x.shape[1] // 4, 1, 1, 1)
        timesteps = torch.tensor([5, 5])
        results += [text, x, run.transformer(x, text, timesteps, ofs=None if ofs is None else torch.tensor([ofs, ofs]))]
        run.activate("vae")
        assert run.vae.decoder.conv_in.weight.numel() > 0
    return results


@pytest.mark.parametrize("strategies", memory_planner.STRATEGIES)
def test_every_placement_gives_the_same_outputs(spec, strategies):
    expected = outputs(model_folder.load(spec))
    for actual, reference in zip(outputs(place(spec, strategies)), expected, strict=True):
        assert torch.equal(actual, reference)


def test_group_offload_from_main_memory_gives_the_same_outputs(spec):
    expected = outputs(model_folder.load(spec), calls=1)
    for actual, reference in zip(
        outputs(place(spec, memory_planner.STRATEGIES[-1], weight_location="host"), calls=1), expected, strict=True
    ):
        assert torch.equal(actual, reference)


@pytest.mark.parametrize("weight_format", ["int8", "fp8"])
def test_quantized_weights_are_close_and_equal_in_every_placement(spec, weight_format):
    expected = outputs(model_folder.load(spec), calls=1)
    actual = outputs(place(spec, memory_planner.STRATEGIES[0], weight_format), calls=1)
    assert not torch.equal(actual[1], expected[1])
    error = (actual[1] - expected[1]).norm() / expected[1].norm()
    assert error < (0.02 if weight_format == "int8" else 0.08)
    for weight_location in ("disk", "host"):
        offloaded = outputs(place(spec, memory_planner.STRATEGIES[-1], weight_format, weight_location), calls=1)
        assert all(torch.equal(a, b) for a, b in zip(offloaded, actual, strict=True))


def test_model_offload_keeps_one_network_in_memory(spec):
    run = place(spec, ("model_offload", "model_offload"))
    sizes = lambda: [sum(p.numel() for p in net.parameters()) for net in (run.text_encoder, run.transformer)]  # noqa: E731
    assert sizes() == [0, 0]
    run.activate("text_encoder")
    assert sizes()[0] > 0 and sizes()[1] == 0
    run.activate("transformer")
    assert sizes()[0] == 0 and sizes()[1] > 0
    run.activate("vae")
    assert sizes() == [0, 0]


@pytest.mark.parametrize("strategies", [memory_planner.STRATEGIES[2], memory_planner.STRATEGIES[4]])
def test_an_unmerged_lora_works_in_every_placement(spec, strategies):
    """The LoRA is added before the first forward pass and removed afterwards."""

    def results(run):
        model = run.transformer
        adapter = inject.create_lora(
            model, torch.Generator().manual_seed(0), rank=2, targets=["to_q", "to_out.0", "linear"]
        )
        for factors in adapter.layers.values():
            factors.up.normal_(generator=torch.Generator().manual_seed(1))
        inject.add_lora(model, adapter)
        with_lora = outputs(run, calls=1)[1]
        inject.remove_lora(model)
        return with_lora, outputs(run, calls=1)[1]

    for actual, reference in zip(results(place(spec, strategies)), results(model_folder.load(spec)), strict=True):
        assert torch.equal(actual, reference)


def test_quantization_is_exact_for_zero_and_the_largest_value():
    matrix = torch.tensor([[0.0, 0.0, 0.0], [1.0, -3.0, 0.5], [1e-30, 2e-30, 0.0], [0.0, 1e-44, 0.0]])
    for weight_format in ("int8", "fp8"):
        dequantized = QuantizedMatrix.quantize(matrix, weight_format).dequantize(torch.float32)
        assert torch.equal(dequantized[0], matrix[0])
        torch.testing.assert_close(dequantized.abs().amax(1), matrix.abs().amax(1))
        assert (dequantized - matrix).abs().max() <= 3.0 / (254 if weight_format == "int8" else 16)


@pytest.mark.parametrize("weight_format", ["int8", "fp8"])
def test_quantization_does_not_depend_on_the_chunk_size(weight_format):
    matrix = torch.randn(600, 5, generator=torch.Generator().manual_seed(0))
    rows = QuantizedMatrix.quantize(matrix, weight_format)
    row_by_row = [QuantizedMatrix.quantize(row[None], weight_format).dequantize(torch.float32) for row in matrix]
    assert torch.equal(rows.dequantize(torch.float32), torch.cat(row_by_row))
    fake_quantize_(matrix, weight_format)
    assert torch.equal(matrix, torch.cat(row_by_row))


def test_a_network_that_fails_to_load_keeps_no_memory(tmp_path):
    spec = read_spec(model_folder.save(tiny.model("2b"), tmp_path / "model"))
    run = place(spec, ("model_offload", "model_offload"))
    file = spec.path / "transformer/diffusion_pytorch_model.safetensors"
    state = load_state(file)
    state["proj_out.bias"] = state["proj_out.bias"] * float("nan")
    save_state(state, file)
    for _ in range(2):
        with pytest.raises(UserError, match=r"NaN or infinity \(proj_out\.bias\)"):
            run.activate("transformer")
        assert sum(parameter.numel() for parameter in run.transformer.parameters()) == 0


def test_profile_of_files_with_any_dtype(tmp_path):
    spec = read_spec(model_folder.save(tiny.model("2b"), tmp_path / "model"))
    file = spec.path / "transformer/diffusion_pytorch_model.safetensors"
    state = {name: tensor.to(torch.float8_e5m2) for name, tensor in load_state(file).items()}
    save_state(state, file)
    assert profile_model(spec).itemsizes == {"text_encoder": 4, "transformer": 1, "vae": 4}
    save_state({}, file)
    assert profile_model(spec).itemsizes["transformer"] == 4  # missing tensors are reported when it is loaded
