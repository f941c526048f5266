"""The dtype of "auto" on a CPU depends on the model and the probe only."""

from dataclasses import replace

import pytest

from cogvideox.generation.workload import default_workload
from cogvideox.hardware.cpu_probe import CPUProbe, KernelRates, fixed_probe
from cogvideox.pretrained.model_spec import read_spec
from cogvideox.pretrained.offload import cpu_dtype as module
from cogvideox.pretrained.offload.cpu_dtype import cpu_dtype, slow_dtype_note
from cogvideox.pretrained.offload.placement import profile_model
from cogvideox.pretrained.presets import preset_profile, preset_spec


def probe(*bfloat16: float) -> CPUProbe:
    """Return a probe of a CPU with 100 GFLOP/s in float32, and this speed in bfloat16 if there is one."""
    rates = {"float32": KernelRates(*[1e11] * 4)}
    rates.update(("bfloat16", KernelRates(*[speed] * 4)) for speed in bfloat16)
    return CPUProbe("test", rates)


@pytest.mark.parametrize(
    ("cpu", "dtype"),
    [(probe(6e11), "bfloat16"), (probe(1.5e11), "bfloat16"), (probe(0.5e11), "float32"), (probe(), "float32")],
)
@pytest.mark.parametrize("name", ["2b", "5b"])
def test_large_models_use_bfloat16_where_it_is_faster(cpu, dtype, name):
    spec = preset_spec(name)
    with fixed_probe(cpu):
        assert cpu_dtype(preset_profile(spec), default_workload(spec)) == dtype


def test_a_small_saving_keeps_float32():
    spec = preset_spec("2b")
    short = replace(
        default_workload(spec), num_frames=1, window_frames=1, height=64, width=64, num_inference_steps=1, num_prompts=0
    )
    with fixed_probe(probe(6e14)):
        assert cpu_dtype(preset_profile(spec), default_workload(spec)) == "bfloat16"
    with fixed_probe(
        CPUProbe("test", {name: KernelRates(*[rate] * 4) for name, rate in (("float32", 1e14), ("bfloat16", 6e14))})
    ):
        assert cpu_dtype(preset_profile(spec), short) == "float32"


def test_the_shipped_model_is_not_probed(monkeypatch):
    monkeypatch.setattr(module, "cpu_probe", lambda: pytest.fail("probed"))
    spec = read_spec("toybox")
    assert cpu_dtype(profile_model(spec), default_workload(spec)) == "float32"


def test_slow_dtypes_have_a_note():
    with fixed_probe(probe(6e11)):
        assert slow_dtype_note("float32") is slow_dtype_note("bfloat16") is None
        assert "float16 is slower than float32 on this CPU" in slow_dtype_note("float16")
    with fixed_probe(probe(0.5e11)):
        assert "use float32 or auto" in slow_dtype_note("bfloat16")
