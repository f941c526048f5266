"""The planner chooses the fastest plan that fits, and suggests a smaller request if nothing fits."""

from dataclasses import replace
from itertools import pairwise

import pytest

from cogvideox.errors import UserError
from cogvideox.pretrained.offload import memory_planner
from cogvideox.pretrained.offload.hardware import UNKNOWN_CPU, Hardware, hypothetical_gpu
from cogvideox.pretrained.offload.memory_planner import parse_memory, plan_memory
from cogvideox.pretrained.offload.plan import ModelProfile, Workload
from cogvideox.pretrained.offload.vae_cost import VAESlicing
from cogvideox.text.config import T5Config
from cogvideox.transformer.presets import PRESETS
from cogvideox.vae.config import PRESETS as VAES

ITEMSIZES = {"transformer": 2, "text_encoder": 2, "vae": 2}
WORKLOAD = Workload(num_frames=49, height=480, width=720, num_inference_steps=50, window_frames=49)


def model(name: str) -> ModelProfile:
    return ModelProfile(name, PRESETS[name](), VAES[name](), T5Config(), 226, ITEMSIZES)


def cpu(gigabytes: int) -> Hardware:
    return Hardware("cpu", "CPU", gigabytes * 2**30, gigabytes * 2**30, "float32", UNKNOWN_CPU)


def test_more_free_memory_gives_a_faster_plan():
    seconds, order = [], []
    for gigabytes in (6, 8, 12, 16, 24, 48, 80):
        plan = plan_memory(model("5b"), WORKLOAD, hypothetical_gpu("RTX 4090", gigabytes))
        assert plan.peak <= plan.hardware.free_bytes and plan.weight_format == "exact"
        order.append(
            (
                memory_planner.STRATEGIES.index((plan.text_encoder, plan.transformer)),
                plan.vae_slicing.offload,
                plan.vae_slicing.strips,
            )
        )
        seconds.append(plan.seconds_denoise + plan.seconds_decode)
    assert order == sorted(order, reverse=True)
    assert all(later < 1.05 * before for before, later in pairwise(seconds))


def test_small_gpus_offload_and_large_ones_keep_everything_resident():
    assert plan_memory(model("5b"), WORKLOAD, hypothetical_gpu("RTX 4090", 8)).strategy == "group_offload"
    assert plan_memory(model("5b"), WORKLOAD, hypothetical_gpu("RTX 4090", 24)).strategy == "model_offload"
    large = plan_memory(model("5b"), WORKLOAD, hypothetical_gpu("H100", 80))
    assert large.strategy == "resident" and large.vae_slicing == VAESlicing()


def test_speed_and_low_preferences():
    gpu = hypothetical_gpu("RTX 4090", 24)
    fast, low = (plan_memory(model("2b"), WORKLOAD, gpu, preference) for preference in ("speed", "low"))
    assert fast.strategy == "resident" and fast.vae_slicing == VAESlicing()
    assert low.strategy == "group_offload" and low.peak < fast.peak / 4
    assert plan_memory(model("2b"), WORKLOAD, gpu, 8 * 2**30).peak <= 8 * 2**30


def test_the_summary_says_that_quantized_weights_are_not_exact():
    plan = plan_memory(model("5b"), WORKLOAD, hypothetical_gpu("RTX 4090", 24), weight_format="int8")
    assert "int8" in str(plan) and "not exact" in str(plan)
    assert plan.peak < plan_memory(model("5b"), WORKLOAD, hypothetical_gpu("RTX 4090", 80)).peak


@pytest.mark.parametrize("name", ["2b", "5b", "1.5-5b"])
@pytest.mark.parametrize("gigabytes", [6, 10, 16])
def test_quantized_plans_need_no_more_memory_than_exact_ones(name, gigabytes):
    """With less main memory, and at most 0.25 GB more for the quantized and dequantized buffers."""
    workload = replace(WORKLOAD, num_frames=9, window_frames=9)
    exact = plan_memory(model(name), workload, hypothetical_gpu("RTX 4090", gigabytes), "low")
    quantized = plan_memory(model(name), workload, hypothetical_gpu("RTX 4090", gigabytes), "low", "int8")
    assert quantized.peak < exact.peak + 0.25 * 2**30
    assert quantized.bytes_host < exact.bytes_host


def test_the_error_suggests_the_nearest_request_that_fits():
    large = Workload(num_frames=161, height=768, width=1360, num_inference_steps=50, window_frames=161)
    with pytest.raises(UserError, match=r"needs .* GiB for 161 frames .* sequential_guidance"):
        plan_memory(model("1.5-5b"), large, hypothetical_gpu("RTX 4090", 12))
    unbatched = replace(large, batch_size=1, calls_per_step=2)
    with pytest.raises(UserError, match="num_frames=") as caught:
        plan_memory(model("1.5-5b"), unbatched, hypothetical_gpu("RTX 4090", 8))
    nearest = int(str(caught.value).rsplit("=", 1)[1])
    shorter = replace(unbatched, num_frames=nearest, window_frames=nearest)
    assert plan_memory(model("1.5-5b"), shorter, hypothetical_gpu("RTX 4090", 8)).strategy == "group_offload"
    with pytest.raises(UserError, match=r"222 MiB are free on GTX 1050; no size fits"):
        plan_memory(model("5b"), WORKLOAD, hypothetical_gpu("GTX 1050", 0.9))
    with pytest.raises(UserError, match=r"1\.0 GiB are allowed on RTX 4090"):
        plan_memory(model("5b"), WORKLOAD, hypothetical_gpu("RTX 4090", 24), 2**30)
    with pytest.raises(UserError, match=r"free on GTX 1050, and this model supports no other size"):
        plan_memory(
            model("5b-i2v"), replace(WORKLOAD, batch_size=1, calls_per_step=2), hypothetical_gpu("GTX 1050", 0.9)
        )
    with pytest.raises(UserError, match=r"free on GTX 1050; it fits with num_frames=37"):
        plan_memory(
            model("5b-i2v"), replace(WORKLOAD, batch_size=1, calls_per_step=2), hypothetical_gpu("GTX 1050", 3)
        )  # shorter clips use the first part of the learned positions


def test_a_cpu_offloads_to_disk():
    assert plan_memory(model("2b"), WORKLOAD, cpu(256)).strategy == "resident"
    plan = plan_memory(model("5b"), WORKLOAD, cpu(24))
    assert plan.strategy == "group_offload" and plan.weight_location == "disk" and plan.bytes_host == 0


def test_replanning_changes_only_the_vae_slicing():
    gpu = hypothetical_gpu("RTX 4090", 16)
    before = plan_memory(model("5b"), replace(WORKLOAD, num_frames=9, window_frames=9), gpu)
    after = memory_planner.replan_vae(model("5b"), WORKLOAD, before)
    assert (after.text_encoder, after.transformer) == (before.text_encoder, before.transformer)
    assert after.vae_slicing.strips >= before.vae_slicing.strips and after.workload == WORKLOAD


def test_summary_and_table_of_a_plan():
    summary = str(plan_memory(model("5b"), WORKLOAD, hypothetical_gpu("RTX 4090", 12)))
    for phrase in ("transformer loaded block by block from main memory", "GiB", "estimate"):
        assert phrase in summary
    assert "denoise" in plan_memory(model("5b"), WORKLOAD, hypothetical_gpu("RTX 4090", 12)).table()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("auto", "auto"),
        ("low", "low"),
        ("12GB", 12 * 2**30),
        ("1.5g", 3 * 2**29),
        ("12 GiB", 12 * 2**30),
        ("800MB", 800 * 2**20),
        (10**9, 10**9),
    ],
)
def test_parse_memory(value, expected):
    assert parse_memory(value) == expected


@pytest.mark.parametrize("value", ["12", "12B", "much", "-1GB", "0GB", "nanGB", "", 0, -1])
def test_parse_memory_rejects_other_values(value):
    with pytest.raises(UserError, match="auto, speed, low"):
        parse_memory(value)
