"""Hardware detection: memory limits of containers, and the rates of GPUs by name."""

import pytest
import torch

from cogvideox.hardware.gpus import GPUS, UNKNOWN_GPU, gpu_memory, gpu_rates
from cogvideox.pretrained.offload import hardware
from cogvideox.pretrained.offload.hardware import cgroup_limits, main_memory

GB = 2**30


def write_cgroup(folder, limit, used, cache, version=2):
    folder.mkdir(parents=True, exist_ok=True)
    names = ("max", "current", "") if version == 2 else ("limit_in_bytes", "usage_in_bytes", "total_")
    (folder / f"memory.{names[0]}").write_text(f"{limit}\n")
    (folder / f"memory.{names[1]}").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 7\ninactive_file_of_another 5\n{names[2]}inactive_file {cache}\n")


def test_all_enclosing_cgroups_limit_memory(tmp_path):
    write_cgroup(tmp_path / "jobs/mine", 4 * GB, 3 * GB, GB)
    write_cgroup(tmp_path / "jobs", 16 * GB, 15 * GB, GB // 2)
    write_cgroup(tmp_path, "max", 20 * GB, GB)
    assert list(cgroup_limits("0::/jobs/mine\n", tmp_path)) == [(4 * GB, 2 * GB), (16 * GB, 3 * GB // 2)]


def test_a_cgroup_path_of_the_host_falls_back_to_the_root(tmp_path):
    write_cgroup(tmp_path, 8 * GB, 9 * GB, 0)
    assert list(cgroup_limits("0::/docker/0123\n", tmp_path)) == [(8 * GB, 0)]  # more is used than allowed


def test_cgroup_v1_limits(tmp_path):
    write_cgroup(tmp_path / "memory/job", 2 * GB, GB, GB // 4, version=1)
    write_cgroup(tmp_path / "memory", 2**63 - 4096, 9 * GB, 0, version=1)
    cgroups = "9:name=systemd:/job\n4:cpu,memory:/job\n1:cpuset:/\n0::/\n"
    assert list(cgroup_limits(cgroups, tmp_path)) == [(2 * GB, GB + GB // 4)]


def test_missing_or_invalid_cgroup_files_mean_no_limit(tmp_path):
    write_cgroup(tmp_path / "invalid", "much", "more", "most")
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare/memory.max").write_text(str(GB))
    assert list(cgroup_limits("0::/invalid\n", tmp_path)) == []
    assert list(cgroup_limits("0::/bare\n", tmp_path)) == [(GB, GB)]


def test_main_memory_of_this_machine():
    total, free = main_memory()
    assert 0 < free <= total


@pytest.mark.parametrize(("kind", "free_gigabytes"), [("xpu", 24), ("mps", 8)])
def test_only_gpus_that_share_main_memory_are_limited_by_it(monkeypatch, kind, free_gigabytes):
    monkeypatch.setattr("cogvideox.device.free_device_memory", lambda device: 24 * GB)
    monkeypatch.setattr(hardware, "main_memory", lambda: (16 * GB, 8 * GB))
    detected = hardware.detect_hardware(torch.device(kind), "bfloat16")
    assert (detected.free_bytes, detected.host_free_bytes) == (free_gigabytes * GB, 8 * GB)


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("NVIDIA GH200 480GB", "GH200"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA A10G", "A10G"),
        ("NVIDIA A10", "A10"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA GeForce RTX 4060 Ti", "RTX 4060 Ti"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "RTX PRO 6000"),
        ("AMD Instinct MI300X", "MI300X"),
        ("NVIDIA L40S", "L40S"),
        ("Tesla T4", "T4"),
        ("NVIDIA RTX A1000", None),
        ("NVIDIA T400 4GB", None),
    ],
)
def test_gpu_rates_by_name(name, entry):
    assert gpu_rates(name, "bfloat16") is (UNKNOWN_GPU if entry is None else GPUS[entry].rates)
    assert gpu_rates(name, "float32").linear == gpu_rates(name, "float16").linear / 8


def test_rates_are_below_those_of_the_data_sheet():
    for name, gpu in GPUS.items():
        rates = gpu.rates
        assert rates.peak is not None and rates.peak > rates.linear > rates.attention >= rates.convolution > 0, name


@pytest.mark.parametrize(
    ("name", "memory"),
    [
        ("RTX 3060", 12),
        ("rtx 4090", 24),
        ("RTX 4060 Ti 16GB", 16),
        ("NVIDIA A100-SXM4-80GB", 80),
        ("A100 40 GB", 40),
        ("A100", None),
        ("RTX 4060 Ti", None),
        ("Voodoo 2", None),
    ],
)
def test_gpu_memory_by_name(name, memory):
    assert gpu_memory(name) == memory
