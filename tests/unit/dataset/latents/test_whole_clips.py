"""Clips encoded as a whole, as the authors' training clips were, and the memory plan of encoding."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pyarrow import parquet

from cogvideox.cli import encode as command
from cogvideox.dataset.config import ClipFormat
from cogvideox.dataset.ingest.frame_reader import read_window
from cogvideox.dataset.ingest.scan import scan_folder
from cogvideox.dataset.latents import encode as module
from cogvideox.dataset.latents import encode_memory
from cogvideox.dataset.latents.encode import encode_clips
from cogvideox.dataset.latents.encode_memory import EncodingBudget
from cogvideox.dataset.latents.encode_plan import EncodePlan, plan_encoding
from cogvideox.dataset.latents.latent_store import INDEX, LatentStore
from cogvideox.errors import UserError
from cogvideox.geometry import NormStatistics
from cogvideox.pretrained.model_folder import load
from cogvideox.pretrained.model_spec import SETTINGS_FILE, read_spec
from cogvideox.pretrained.offload.vae_cost import VAESlicing
from cogvideox.vae.config import VAEConfig
from cogvideox.video.transform import to_model
from tests import tiny
from tests.unit.dataset import clips

TARGET = ClipFormat(fps=8.0, num_frames=17, max_area=32 * 48)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A model folder like the official ones, without `cogvideox.json`."""
    path = tiny.write(tmp_path_factory.mktemp("model") / "official")
    (path / SETTINGS_FILE).unlink()
    return path


@pytest.fixture
def data(tmp_path) -> Path:
    """Videos of 17 and 9 frames, and an image."""
    clips.video(tmp_path / "data/a.mp4", "a red ball", num_frames=17)
    clips.video(tmp_path / "data/b.mp4", "a green cube", num_frames=9, seed=1)
    clips.image(tmp_path / "data/c.png", "one small thing")
    return tmp_path / "data"


def plan(data: Path, model: Path, norm_statistics: NormStatistics | None = None) -> EncodePlan:
    return plan_encoding(scan_folder(data), read_spec(model), TARGET, norm_statistics)


def test_the_default_norm_statistics_are_those_of_the_training_clips(data, model, tmp_path):
    assert plan(data, model).settings.norm_statistics == "clip"  # official
    assert plan(data, model, "chunk").settings.norm_statistics == "chunk"
    assert plan(data, tiny.write(tmp_path / "own")).settings.norm_statistics == "chunk"  # as in its settings
    assert read_spec("toybox").settings.norm_statistics == "chunk"


@pytest.mark.parametrize("norm_statistics", ["clip", "chunk"])
def test_a_store_holds_latents_of_whole_clips_or_of_chunks(data, model, tmp_path, norm_statistics):
    planned = plan(data, model, norm_statistics)
    encode_clips(planned, tmp_path / "store")
    store, vae = LatentStore(tmp_path / "store"), load(model).vae
    assert store.settings.norm_statistics == norm_statistics
    for sample, window in zip(store, planned.windows, strict=True):
        video = to_model(torch.from_numpy(read_window(window)))[None]
        expected = vae.encode(video, norm_statistics=norm_statistics)
        torch.testing.assert_close(sample.mean.float(), expected.mean[0], rtol=2**-8, atol=1e-6)
        torch.testing.assert_close(sample.logvar.float(), expected.logvar[0], rtol=2**-8, atol=1e-6)


def test_only_longer_clips_are_encoded_again(data, model, tmp_path):
    """Clips of one chunk have the same latents either way; both kinds may be in one store."""
    assert encode_clips(plan(data, model, "chunk"), tmp_path / "store").num_new_latents == 3
    assert encode_clips(plan(data, model, "clip"), tmp_path / "store").num_new_latents == 1
    assert encode_clips(plan(data, model, "chunk"), tmp_path / "store").num_new_latents == 0


def test_stores_of_version_0_1_0_are_read_as_chunks(data, model, tmp_path):
    encode_clips(plan(data, model, "chunk"), tmp_path / "store")
    index = tmp_path / "store" / INDEX
    table = parquet.read_table(index)
    settings = json.loads(table.schema.metadata[b"cogvideox"])
    del settings["norm_statistics"]
    old = table.replace_schema_metadata({"cogvideox": json.dumps({**settings, "null_text": "empty"})})
    parquet.write_table(old, index)
    store = LatentStore(tmp_path / "store")
    assert store.settings.norm_statistics == "chunk" and len(store) == 3
    assert store.null_text("empty").any() and not store.null_text("zero").any()


def budget_for(size: tuple[int, int, int], norm_statistics: NormStatistics) -> EncodingBudget:
    """A budget in which windows of this size just fit."""
    config, unlimited = tiny.vae_config("2b"), EncodingBudget(2**40)
    min_peak = min(
        unlimited.peak(config, size, norm_statistics, VAESlicing(strips, offload))
        for strips in (1, 2, 3, 4)
        for offload in (False, True)
    )
    return EncodingBudget(int(min_peak / 0.94) + 1)


def test_a_clip_that_does_not_fit_in_memory_is_rejected_with_advice(data, model, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "measure_budget", lambda *_: budget_for((9, 32, 48), "clip"))
    result = encode_clips(plan(data, model), tmp_path / "store")
    assert result.num_clips == 2
    ((source, reason),) = result.rejects
    assert source.endswith("a.mp4") and "17 frames of 48x32 as a whole clip needs" in reason
    assert "encode in chunks (norm_statistics=chunk), or choose fewer frames" in reason

    monkeypatch.setattr(module, "measure_budget", lambda *_: EncodingBudget(2**20))
    with pytest.raises(UserError, match=r"1 frame of 48x32.* needs \d+ MiB of memory, but only 1 MiB is available"):
        encode_clips(plan(data, model), tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("device", "workers", "per_device"),
    [("cuda", 0, 1), ("cuda", 4, 2), ("cuda", 3, 2), ("cuda:1", 4, 4), ("cpu", 4, 4)],
)
def test_workers_share_the_memory_of_their_devices(monkeypatch, device, workers, per_device):
    kind, free = device.partition(":")[0], 2**34
    hardware = SimpleNamespace(device_type=kind, free_bytes=free, host_free_bytes=free)
    monkeypatch.setattr(encode_memory, "detect_hardware", lambda *_, **__: hardware)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert encode_memory.measure_budget(device, "float32", workers).free_bytes == free // per_device


def test_less_memory_means_more_strips():
    """At the official size, in bfloat16 on a GPU, whole clips need several times the memory of chunks."""
    config, size, slicings = VAEConfig(), (49, 480, 720), []
    cases: list[tuple[int, NormStatistics]] = [(140, "clip"), (14, "clip"), (8, "clip"), (14, "chunk"), (4, "chunk")]
    for gigabytes, norm_statistics in cases:
        budget = EncodingBudget(gigabytes * 2**30, "bfloat16", on_cpu=False)
        slicing = budget.choose_slicing(config, size, norm_statistics)
        assert budget.peak(config, size, norm_statistics, slicing) <= 0.94 * budget.free_bytes
        slicings.append((slicing.strips, slicing.offload))
    assert slicings[0] == (2, False)  # one strip would exceed the 32-bit index of cuDNN
    assert slicings[1:] == [(3, False), (8, True), (1, False), (2, True)]


def test_activations_are_offloaded_only_if_main_memory_has_space():
    budget = EncodingBudget(8 * 2**30, "bfloat16", on_cpu=False)
    assert budget.choose_slicing(VAEConfig(), (49, 480, 720), "clip").offload
    with pytest.raises(UserError, match="encode in chunks"):
        replace(budget, host_free_bytes=2**30).choose_slicing(VAEConfig(), (49, 480, 720), "clip")


def test_the_command_encodes_whole_clips_of_official_models(data, model, tmp_path, capsys):
    size = ["--max-size", "48x32", "--num-frames", "17"]
    command.run([str(data), "-o", str(tmp_path / "store"), "--model", str(model), *size])
    assert "encoded   as whole clips; about" in capsys.readouterr().out
    assert LatentStore(tmp_path / "store").settings.norm_statistics == "clip"
    command.run([str(data), "--dry-run", "--model", str(model), "--norm-statistics", "chunk", *size])
    assert "encoded   in chunks; about" in capsys.readouterr().out
