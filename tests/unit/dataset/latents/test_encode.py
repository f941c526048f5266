import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from cogvideox.dataset.cache_keys import weights_hash
from cogvideox.dataset.config import ClipFormat
from cogvideox.dataset.ingest.clip_windows import clip_windows
from cogvideox.dataset.ingest.frame_reader import read_window
from cogvideox.dataset.ingest.scan import scan_folder
from cogvideox.dataset.latents import encode as module
from cogvideox.dataset.latents.encode import EncodeResult, encode_clips
from cogvideox.dataset.latents.encode_plan import plan_encoding, store_settings
from cogvideox.dataset.latents.latent_store import INDEX, LatentStore, read_index, write_index
from cogvideox.errors import UserError
from cogvideox.executor.job_array import Shard
from cogvideox.pretrained.model_folder import load
from cogvideox.pretrained.model_spec import read_spec
from cogvideox.state_dict.torch_io import open_weights
from cogvideox.transformer.image_conditioning import add_image_noise
from cogvideox.video.transform import to_model
from tests import tiny
from tests.unit.dataset import clips

TARGET = ClipFormat(fps=8.0, num_frames=9, max_area=32 * 48)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny.write(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def data(tmp_path) -> Path:
    """Two videos, one of them two windows long, and an image."""
    clips.video(tmp_path / "data/a.mp4", "a red ball")
    clips.video(tmp_path / "data/b.mp4", "a green cube", num_frames=18, seed=1)
    clips.image(tmp_path / "data/c.png", "one small thing")
    return tmp_path / "data"


@pytest.fixture
def make(data, model, tmp_path):
    """Encode the folder into a store."""

    def make(
        target: ClipFormat = TARGET, store: str = "store", folder: Path = data, shard=None, **options
    ) -> EncodeResult:
        plan = plan_encoding(scan_folder(folder, shard=shard), read_spec(model), target)
        return encode_clips(plan, tmp_path / store, shard=shard, **options)

    return make


def num_new(result: EncodeResult) -> tuple[int, int]:
    return result.num_new_latents, result.num_new_texts


def equal_stores(first: LatentStore, second: LatentStore) -> bool:
    def without_files(store: LatentStore) -> list:
        return [replace(row, latents_file="", text_file="") for row in store.rows]

    pairs = zip(list(first), list(second))
    tensors = all(
        torch.equal(getattr(a, name), getattr(b, name)) for a, b in pairs for name in ("mean", "logvar", "text")
    )
    return tensors and without_files(first) == without_files(second) and first.rejects == second.rejects


def test_a_store_holds_the_outputs_of_the_networks(make, data, model, tmp_path):
    assert make() == EncodeResult(4, 4, 4, [], True)
    store, loaded = LatentStore(tmp_path / "store"), load(model)
    assert len(store) == 4 and store.shapes.tolist() == [[3, 4, 6]] * 3 + [[1, 4, 6]]
    windows = [window for clip in scan_folder(data).clips for window in clip_windows(clip, TARGET)]
    for sample, window in zip(store, windows):
        posterior = loaded.vae.encode(to_model(torch.from_numpy(read_window(window)))[None])
        ids = loaded.tokenizer.encode([window.clip.caption], tiny.TEXT_LENGTH)
        torch.testing.assert_close(sample.mean.float(), posterior.mean[0], rtol=2**-8, atol=1e-6)
        torch.testing.assert_close(sample.logvar.float(), posterior.logvar[0], rtol=2**-8, atol=1e-6)
        torch.testing.assert_close(sample.text.float(), loaded.text_encoder(ids)[0], rtol=2**-8, atol=1e-6)
        assert (sample.clip_id, sample.source_size, sample.fps) == (window.clip.id, (32, 48), window.fps)
        assert sample.crop == (0, 0, 32, 48) and sample.vae == store.settings.vae
    null = loaded.text_encoder(loaded.tokenizer.encode([""], tiny.TEXT_LENGTH))[0]
    torch.testing.assert_close(store.null_text("empty").float(), null, rtol=2**-8, atol=1e-6)
    assert store.settings.scaling_factor == loaded.vae.config.scaling_factor


def test_a_second_run_encodes_only_what_is_new(make, data, tmp_path):
    make()
    before = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "store").glob("*.safetensors")}
    assert num_new(make()) == (0, 0)
    clips.video(data / "d.mp4", "a red ball", seed=3)
    assert num_new(make()) == (1, 0)
    (data / "a.txt").write_text("a green ball")
    assert num_new(make()) == (0, 1)
    assert LatentStore(tmp_path / "store").rows[0].caption == "a green ball"
    assert num_new(make(replace(TARGET, fps=4.0, num_frames=5))) == (3, 0)
    (data / "a.mp4").unlink()
    assert num_new(make()) == (0, 0) and len(LatentStore(tmp_path / "store")) == 4
    after = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "store").glob("*.safetensors")}
    assert before.items() <= after.items()


def test_first_frames_are_noise_augmented(make, model, tmp_path):
    """Noise is seeded by the clip; adding first frames to a store does not encode its latents again."""
    target = replace(TARGET, first_frames=3)
    assert num_new(make()) == (4, 4)
    assert LatentStore(tmp_path / "store")[0].image_mean is None
    encoded = make(target)
    assert num_new(encoded) == (0, 0) and encoded.num_new_first_frames == 4
    store, loaded = LatentStore(tmp_path / "store"), load(model)
    for sample, row in zip(store, store.rows):
        (window,) = [
            v for c in scan_folder(tmp_path / "data").clips for v in clip_windows(c, TARGET) if v.clip.id == row.clip_id
        ]
        first = to_model(torch.from_numpy(read_window(window)[:1]))
        posterior = loaded.vae.encode(add_image_noise(first, 3, row.images))
        assert sample.image_mean.shape == (4, 3, 4, 6)
        torch.testing.assert_close(sample.image_mean[:, 1].float(), posterior.mean[1, :, 0], rtol=2**-8, atol=1e-6)
        torch.testing.assert_close(sample.image_logvar[:, 2].float(), posterior.logvar[2, :, 0], rtol=2**-8, atol=1e-6)
        assert not torch.equal(sample.image_mean[:, 0], sample.image_mean[:, 1])
    assert make(target).num_new_first_frames == 0
    assert make(replace(target, first_frames=1)).num_new_first_frames == 4


def test_damaged_clips_are_rejected_with_a_reason(make, data, tmp_path):
    reasons = clips.write_unusable(data)
    encoded = make(replace(TARGET, num_frames=17))
    store = LatentStore(tmp_path / "store")
    assert len(store) == encoded.num_clips == 3 and store.rejects == encoded.rejects
    rejects = {Path(source).name: reason for source, reason in store.rejects}
    assert rejects.keys() == reasons.keys()
    for name, reason in rejects.items():
        assert reasons[name] in reason, name


def test_clips_with_unusable_captions_are_rejected(make, data, tmp_path):
    (data / "a.txt").write_text("ball " * 50)
    (data / "metadata.jsonl").write_text(
        json.dumps({"video": "a.mp4", "text": "ball " * 50})
        + '\n{"video": "b.mp4", "text": "\\ud800"}\n{"video": "c.png", "text": "cube", "flow": 0.5, "kind": "x"}\n'
    )
    encoded = make()
    assert [reason.partition(":")[0] for _, reason in encoded.rejects] == ["its caption cannot be used"] * 2
    assert "the limit is 12" in encoded.rejects[0][1] and num_new(encoded) == (1, 2)
    columns = LatentStore(tmp_path / "store").columns
    assert columns["flow"].tolist() == [0.5] and columns["kind"].tolist() == ["x"]


def test_missing_scores_are_nan_or_empty(make, data, tmp_path):
    rows = [{"video": "a.mp4", "text": "ball", "flow": 2, "tag": "x"}, {"video": "c.png", "text": "cube", "mixed": 1}]
    rows[1]["mixed"], rows[0]["mixed"] = "n/a", 1.5
    (data / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    make()
    columns = LatentStore(tmp_path / "store").columns
    assert columns["flow"][0] == 2 and np.isnan(columns["flow"][1])
    assert columns["tag"].tolist() == ["x", ""] and columns["mixed"].tolist() == ["1.5", "n/a"]


def test_duplicate_clips_are_rejected(make, data, tmp_path):
    (data / "e.mp4").write_bytes((data / "a.mp4").read_bytes())
    (data / "e.txt").write_text("a red ball")
    assert make().rejects == [(str(data / "e.mp4"), f"it is a duplicate of {data / 'a.mp4'}, with the same caption")]
    (data / "e.txt").write_text("the ball")
    assert make().rejects == [] and len(LatentStore(tmp_path / "store")) == 5


@pytest.mark.parametrize("world", [2, 3])
def test_a_job_array_writes_the_same_store(make, tmp_path, world):
    make()
    for rank in range(world):
        assert not (tmp_path / "jobs" / INDEX).exists()
        assert make(store="jobs", shard=Shard(rank, world)).complete == (rank == world - 1)
    assert equal_stores(LatentStore(tmp_path / "store"), LatentStore(tmp_path / "jobs"))
    assert sorted(file.suffix for file in (tmp_path / "jobs").iterdir()).count(".parquet") == 1
    assert not any(file.is_dir() for file in (tmp_path / "jobs").iterdir())


def test_results_of_jobs_on_an_older_folder_are_not_merged(make, data, tmp_path):
    make(store="jobs", shard=Shard(0, 2))
    clips.video(data / "d.mp4", "a red ball", seed=3)
    assert not make(store="jobs", shard=Shard(1, 2)).complete
    assert make(store="jobs", shard=Shard(0, 2)).complete
    assert len(LatentStore(tmp_path / "jobs")) == 5


@pytest.mark.slow
def test_worker_processes_write_the_same_store(make, tmp_path):
    make()
    assert num_new(make(store="pool", workers=2)) == (4, 4)
    assert equal_stores(LatentStore(tmp_path / "store"), LatentStore(tmp_path / "pool"))


def test_an_interruption_costs_one_shard(make, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_SHARD_ITEMS", 1)

    def stop(what: str, done: int, total: int) -> None:
        if what == "clips" and done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(on_progress=stop)
    assert not (tmp_path / "store" / INDEX).exists()
    assert num_new(make()) == (2, 0)


def test_a_damaged_shard_is_encoded_again(make, tmp_path):
    make()
    (shard,) = (tmp_path / "store").glob("latents-*")
    original = {name: tensor.clone() for name, tensor in load_file(shard).items()}
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(UserError, match="is damaged; delete it and run"):
        LatentStore(tmp_path / "store")[0]
    assert num_new(make()) == (4, 0)
    assert all(torch.equal(tensor, original[name]) for name, tensor in load_file(shard).items())


def test_other_weights_have_other_hashes(make, model, tmp_path):
    make()
    loaded = load(model)
    before = store_settings(read_spec(model), TARGET)
    with torch.no_grad():
        loaded.vae.decoder.conv_in.weight.add_(1)
    other = tiny.model_folder.save(loaded, tmp_path / "decoder")
    assert replace(store_settings(read_spec(other), TARGET), model=before.model) == before
    with torch.no_grad():
        loaded.vae.encoder.conv_in.bias[0] += 1
        loaded.text_encoder.norm.weight[0] += 1
    other = tiny.model_folder.save(loaded, tmp_path / "both")
    after = store_settings(read_spec(other), TARGET)
    assert after.vae != before.vae and after.text_encoder != before.text_encoder


def test_a_change_anywhere_in_a_tensor_changes_its_hash(tmp_path):
    def hashed(tensor: torch.Tensor) -> str:
        save_file({"x": tensor}, tmp_path / "x.safetensors")
        return weights_hash(open_weights(tmp_path / "x.safetensors"), ["x"], None)

    before = torch.zeros(1000, 1000)
    assert hashed(before) == hashed(before.clone())
    for first in (0, 400, 900):
        after = before.clone()
        after[first : first + 100] = 1
        assert hashed(after) != hashed(before)
    assert hashed(torch.tensor(1.0)) != hashed(torch.tensor(2.0))


def test_a_store_can_be_pickled(make, tmp_path):
    make()
    store = LatentStore(tmp_path / "store")
    first = store[0]
    copy = pickle.loads(pickle.dumps(store))
    assert torch.equal(copy[0].mean, first.mean)


def test_the_size_of_a_store_is_known_in_advance(make, data, model, tmp_path):
    target = replace(TARGET, first_frames=2)
    make(target)
    plan = plan_encoding(scan_folder(data), read_spec(model), target)
    written = sum(file.stat().st_size for file in (tmp_path / "store").glob("*.safetensors"))
    assert 0 < written - plan.num_bytes < 6000


def test_other_folders_are_rejected(tmp_path):
    with pytest.raises(UserError, match=r"is not a latent store: it has no index.parquet"):
        LatentStore(tmp_path)
    (tmp_path / INDEX).write_bytes(b"PAR1")
    with pytest.raises(UserError, match="damaged or not the index"):
        LatentStore(tmp_path)


def test_an_index_round_trips(make, tmp_path):
    make()
    settings, rows = read_index(tmp_path / "store" / INDEX)
    write_index(tmp_path / "again.parquet", settings, rows)
    assert read_index(tmp_path / "again.parquet") == (settings, rows)


def test_sizes_must_fit_the_model(make):
    with pytest.raises(UserError, match="sizes in multiples of 8 pixels do not fit the model: use multiples of 16"):
        make(replace(TARGET, multiple=8))
