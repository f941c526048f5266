"""Plans: the fastest that fits, exact unless asked otherwise, and a sentence where nothing does."""

from dataclasses import replace
from itertools import pairwise

import pytest

from cogvideox.errors import UserError
from cogvideox.pretrained.offload import planner
from cogvideox.pretrained.offload.hardware import UNKNOWN_CPU, Hardware, hypothetical_gpu
from cogvideox.pretrained.offload.plan import ModelProfile, Workload
from cogvideox.pretrained.offload.planner import parse_memory, plan_memory
from cogvideox.pretrained.offload.vae_cost import VAEMemoryMode
from cogvideox.text.config import T5Config
from cogvideox.transformer.config import PRESETS
from cogvideox.vae.config import PRESETS as VAES

IN_TWO_BYTES = {"transformer": 2, "text_encoder": 2, "vae": 2}
NATIVE = Workload(num_frames=49, height=480, width=720, num_inference_steps=50, window_frames=49)


def model(name: str) -> ModelProfile:
    return ModelProfile(name, PRESETS[name](), VAES[name](), T5Config(), 226, IN_TWO_BYTES)


def cpu(gigabytes: int) -> Hardware:
    return Hardware("cpu", "CPU", gigabytes * 2**30, gigabytes * 2**30, "float32", UNKNOWN_CPU)


def test_the_more_is_free_the_faster():
    seconds, order = [], []
    for gigabytes in (6, 8, 12, 16, 24, 48, 80):
        one = plan_memory(model("5b"), NATIVE, hypothetical_gpu("RTX 4090", gigabytes))
        assert one.peak <= one.hardware.free_bytes and one.weight_format == "exact"
        order.append(
            (planner.STRATEGIES.index((one.text_encoder, one.transformer)), one.vae_mode.offload, one.vae_mode.strips)
        )
        seconds.append(one.seconds_denoise + one.seconds_decode)
    assert order == sorted(order, reverse=True)
    assert all(later < 1.05 * before for before, later in pairwise(seconds))


def test_small_cards_stream_and_large_ones_keep_everything():
    assert plan_memory(model("5b"), NATIVE, hypothetical_gpu("RTX 4090", 8)).placement == "group_offload"
    assert plan_memory(model("5b"), NATIVE, hypothetical_gpu("RTX 4090", 24)).placement == "model_offload"
    large = plan_memory(model("5b"), NATIVE, hypothetical_gpu("H100", 80))
    assert large.placement == "resident" and large.vae_mode == VAEMemoryMode()


def test_preferences():
    card = hypothetical_gpu("RTX 4090", 24)
    fast, low = (plan_memory(model("2b"), NATIVE, card, preference) for preference in ("speed", "low"))
    assert fast.placement == "resident" and fast.vae_mode == VAEMemoryMode()
    assert low.placement == "group_offload" and low.peak < fast.peak / 4
    assert plan_memory(model("2b"), NATIVE, card, 8 * 2**30).peak <= 8 * 2**30


def test_one_byte_storage_is_said():
    one = plan_memory(model("5b"), NATIVE, hypothetical_gpu("RTX 4090", 24), weight_format="int8")
    assert "int8" in str(one) and "not exact" in str(one)
    assert one.peak < plan_memory(model("5b"), NATIVE, hypothetical_gpu("RTX 4090", 80)).peak


@pytest.mark.parametrize("name", ["2b", "5b", "1.5-5b"])
@pytest.mark.parametrize("gigabytes", [6, 10, 16])
def test_one_byte_storage_fits_where_the_exact_one_does(name, gigabytes):
    """With less main memory, and a fifth of a GB at most for both forms of the blocks that cross."""
    demand = replace(NATIVE, num_frames=9, window_frames=9)
    exact = plan_memory(model(name), demand, hypothetical_gpu("RTX 4090", gigabytes), "low")
    small = plan_memory(model(name), demand, hypothetical_gpu("RTX 4090", gigabytes), "low", "int8")
    assert small.peak < exact.peak + 0.25 * 2**30
    assert small.bytes_host < exact.bytes_host


def test_where_nothing_fits_the_nearest_is_named():
    large = Workload(num_frames=161, height=768, width=1360, num_inference_steps=50, window_frames=161)
    with pytest.raises(UserError, match=r"needs .* GB for 161 frames .* sequential_guidance"):
        plan_memory(model("1.5-5b"), large, hypothetical_gpu("RTX 4090", 12))
    one_half = replace(large, batch_size=1, calls_per_step=2)
    with pytest.raises(UserError, match="num_frames=") as refusal:
        plan_memory(model("1.5-5b"), one_half, hypothetical_gpu("RTX 4090", 8))
    nearest = int(str(refusal.value).rsplit("=", 1)[1])
    shorter = replace(one_half, num_frames=nearest, window_frames=nearest)
    assert plan_memory(model("1.5-5b"), shorter, hypothetical_gpu("RTX 4090", 8)).placement == "group_offload"
    with pytest.raises(UserError, match=r"222 MB are free on GTX 1050; no size fits"):
        plan_memory(model("5b"), NATIVE, hypothetical_gpu("GTX 1050", 0.9))
    with pytest.raises(UserError, match=r"1\.0 GB are allowed on RTX 4090"):
        plan_memory(model("5b"), NATIVE, hypothetical_gpu("RTX 4090", 24), 2**30)
    with pytest.raises(UserError, match=r"free on GTX 1050, and this model supports no other size"):
        plan_memory(model("5b-i2v"), replace(NATIVE, batch_size=1, calls_per_step=2), hypothetical_gpu("GTX 1050", 0.9))
    with pytest.raises(UserError, match=r"free on GTX 1050; it fits with num_frames=37"):
        plan_memory(
            model("5b-i2v"), replace(NATIVE, batch_size=1, calls_per_step=2), hypothetical_gpu("GTX 1050", 3)
        )  # learned positions in part


def test_a_cpu_streams_from_the_disk_what_memory_does_not_hold():
    assert plan_memory(model("2b"), NATIVE, cpu(256)).placement == "resident"
    one = plan_memory(model("5b"), NATIVE, cpu(24))
    assert one.placement == "group_offload" and one.weight_location == "disk" and one.bytes_host == 0


def test_another_request_changes_only_how_the_vae_decodes():
    card = hypothetical_gpu("RTX 4090", 16)
    before = plan_memory(model("5b"), replace(NATIVE, num_frames=9, window_frames=9), card)
    after = planner.replan_vae(model("5b"), NATIVE, before)
    assert (after.text_encoder, after.transformer) == (before.text_encoder, before.transformer)
    assert after.vae_mode.strips >= before.vae_mode.strips and after.workload == NATIVE


def test_the_plan_reads_as_a_sentence():
    text = str(plan_memory(model("5b"), NATIVE, hypothetical_gpu("RTX 4090", 12)))
    assert "transformer loaded block by block from main memory" in text and "GB" in text and "estimate" in text
    assert "denoise" in plan_memory(model("5b"), NATIVE, hypothetical_gpu("RTX 4090", 12)).table()


@pytest.mark.parametrize(
    ("text", "value"),
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
def test_memory_is_read(text, value):
    assert parse_memory(text) == value


@pytest.mark.parametrize("text", ["12", "12B", "much", "-1GB", "0GB", "nanGB", "", 0, -1])
def test_what_is_no_memory_is_refused(text):
    with pytest.raises(UserError, match="auto, speed, low"):
        parse_memory(text)
