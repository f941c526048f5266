"""Every placement of a model on a GPU gives the same results, and group offloading reduces GPU memory."""

from dataclasses import replace

import pytest
import torch

from cogvideox.generation.pipeline import CogVideoX
from cogvideox.generation.workload import default_workload
from cogvideox.pretrained import model_folder
from cogvideox.pretrained.components import build_network
from cogvideox.pretrained.model_spec import read_spec
from cogvideox.pretrained.offload import memory_planner
from cogvideox.pretrained.offload.hardware import detect_hardware
from cogvideox.pretrained.offload.placement import place_model, profile_model
from cogvideox.pretrained.offload.plan import Workload
from cogvideox.pretrained.offload.vae_cost import VAESlicing
from cogvideox.transformer.config import TransformerConfig
from tests import tiny

WORKLOAD = Workload(num_frames=9, height=32, width=48, num_inference_steps=2, window_frames=9)


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    """A model with 400 MB of bfloat16 weights in many blocks."""
    model = tiny.model("2b")
    config = TransformerConfig(
        num_attention_heads=12,
        num_layers=24,
        in_channels=4,
        out_channels=4,
        text_embed_dim=32,
        max_text_seq_length=12,
        sample_height=4,
        sample_width=6,
        sample_frames=9,
    )
    torch.manual_seed(0)
    model.transformer = build_network(config).to_empty(device="cpu")
    for parameter in model.transformer.parameters():
        torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    return read_spec(model_folder.save(model, tmp_path_factory.mktemp("model") / "many", dtype=torch.bfloat16))


def place(spec, strategies, weight_format="exact", host_free_bytes=None):
    device = torch.device("cuda")
    hardware = detect_hardware(device, "bfloat16")
    if host_free_bytes is not None:
        hardware = replace(hardware, host_free_bytes=host_free_bytes)
    plan = memory_planner.estimate_plan(
        profile_model(spec), WORKLOAD, hardware, strategies, VAESlicing(), weight_format
    )
    return place_model(spec, plan, device, torch.bfloat16)


def warm_up() -> None:
    """Run a matrix product, because cuBLAS allocates a permanent workspace at the first one."""
    x = torch.ones(256, 256, device="cuda", dtype=torch.bfloat16)
    torch.nn.functional.linear(x, x, x[0])
    torch.cuda.synchronize()
    torch.cuda.empty_cache()


@torch.inference_mode()
def predict(run):
    """Run the text encoder and four denoising steps, twice. Return all outputs and the peak memory."""
    warm_up()
    torch.cuda.reset_peak_memory_stats()
    outputs = []
    for _ in range(2):
        run.activate("text_encoder")
        text = run.text_encoder(torch.arange(24, device="cuda").view(2, 12)).bfloat16()
        run.activate("transformer")
        tables = run.transformer.precompute_modulation(torch.tensor([999, 700, 300, 3], device="cuda"))
        x = torch.randn(2, 4, 3, 4, 6, generator=torch.Generator().manual_seed(0)).cuda().bfloat16()
        for step in range(4):
            x = x + 0.1 * run.transformer(x, text, None, modulation=tables[step])
        outputs += [text.float().cpu(), x.float().cpu()]
        run.activate("vae")
    return outputs, torch.cuda.max_memory_allocated()


@pytest.mark.parametrize("host_free_bytes", [None, 0], ids=["from host", "from disk"])
@pytest.mark.parametrize("strategies", memory_planner.STRATEGIES[1:])
def test_every_placement_gives_bit_identical_outputs(spec, strategies, host_free_bytes):
    expected, _ = predict(place(spec, memory_planner.STRATEGIES[0]))
    outputs, _ = predict(place(spec, strategies, host_free_bytes=host_free_bytes))
    print("maximum differences:", [(a - b).abs().max().item() for a, b in zip(outputs, expected)])
    for a, b in zip(outputs, expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("strategies", [memory_planner.STRATEGIES[0], memory_planner.STRATEGIES[-1]])
@pytest.mark.parametrize("weight_format", ["int8", "fp8"])
def test_outputs_with_8_bit_weights_are_close(spec, strategies, weight_format):
    expected, _ = predict(place(spec, memory_planner.STRATEGIES[0]))
    outputs, _ = predict(place(spec, strategies, weight_format))
    error = ((outputs[1] - expected[1]).norm() / expected[1].norm()).item()
    print(f"{weight_format}: relative error {error:.3g}")
    assert error < 0.1


def test_group_offloading_halves_peak_memory(spec):
    _, resident = predict(place(spec, memory_planner.STRATEGIES[0]))
    run = place(spec, memory_planner.STRATEGIES[-1])
    _, offloaded = predict(run)
    print(f"peak: {resident / 1e6:.0f} MB resident, {offloaded / 1e6:.0f} MB with group offloading")
    assert offloaded <= 0.5 * resident  # tensors alone: 0.2; workspaces do not shrink
    assert run.plan.transformer == "group_offload" and run.plan.weight_location == "host"


def test_the_estimate_for_a_resident_model_is_close_to_the_allocated_memory(spec):
    warm_up()
    before = torch.cuda.memory_allocated()
    run = place(spec, memory_planner.STRATEGIES[0])
    _, peak = predict(run)
    print(f"estimated {run.plan.bytes_denoise / 1e6:.0f} MB, allocated {(peak - before) / 1e6:.0f} MB")
    assert run.plan.bytes_denoise == pytest.approx(peak - before, rel=0.2)


@pytest.mark.parametrize("strategies", memory_planner.STRATEGIES)
def test_every_placement_gives_the_same_video(strategies):
    spec = read_spec("toybox")
    device = torch.device("cuda")
    plan = memory_planner.estimate_plan(
        profile_model(spec), default_workload(spec), detect_hardware(device, "float32"), strategies, VAESlicing()
    )
    pipes = [CogVideoX.from_pretrained(spec, device, "float32", memory=memory) for memory in ("speed", plan)]
    expected, frames = (pipe.generate(None, seed=0, num_inference_steps=4, output="float").frames for pipe in pipes)
    print(f"maximum difference of pixel values in 0..1: {abs(frames - expected).max():.2g}")
    assert abs(frames - expected).max() < 2 / 255
