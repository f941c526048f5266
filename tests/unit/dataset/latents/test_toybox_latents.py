import os
from dataclasses import replace
from functools import partial

import pytest
import torch

from cogvideox.atomic_io import atomic_write
from cogvideox.dataset.config import ToyboxClips
from cogvideox.dataset.latents import toybox_latents as module
from cogvideox.dataset.latents.toybox_latents import clip_scene, encode_toybox, fingerprint, render_clips
from cogvideox.errors import UserError
from cogvideox.pretrained.components import load_vae
from cogvideox.toybox.scenes.grammar import is_held_out
from tests import tiny_runs

CLIPS = ToyboxClips(num_clips=7, num_frames=5, height=16, width=16)


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    return load_vae(tiny_runs.write_vae(tmp_path_factory.mktemp("vae")))


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(module, "SHARD_SIZE", 3)


def test_a_clip_depends_only_on_its_seed():
    shifted = replace(CLIPS, first_seed=4)
    assert clip_scene(CLIPS, 5) == clip_scene(shifted, 1)
    torch.testing.assert_close(render_clips(CLIPS, [5, 6]), render_clips(shifted, [1, 2]), rtol=0, atol=0)


def test_no_clip_is_a_held_out_composition():
    assert not any(is_held_out(clip_scene(CLIPS, index)) for index in range(200))


def test_the_table_holds_the_posteriors_of_the_vae(vae, small_shards, tmp_path):
    table = encode_toybox(vae, CLIPS, tmp_path, batch_size=2)
    assert len(table) == 7
    expected, actual = vae.encode(render_clips(CLIPS, [6, 1])), table.posterior([6, 1])
    # bfloat16 has 8 bits of precision.
    torch.testing.assert_close(actual.mean, expected.mean, rtol=2**-8, atol=1e-6)
    torch.testing.assert_close(actual.logvar, expected.logvar, rtol=2**-8, atol=1e-6)


def test_only_missing_shards_are_encoded(vae, small_shards, tmp_path):
    encoded = []

    def on_progress(done: int, total: int) -> None:
        encoded.append((done, total))

    first = encode_toybox(vae, CLIPS, tmp_path, batch_size=2, on_progress=on_progress)
    assert encoded == [(0, 7), (2, 7), (3, 7), (5, 7), (6, 7), (7, 7)]
    repeated = encode_toybox(vae, CLIPS, tmp_path, on_progress=on_progress)
    assert len(encoded) == 6 and torch.equal(first.mean, repeated.mean)
    # A larger set reuses whole shards and encodes the rest; a damaged shard is encoded again.
    shards = sorted(tmp_path.glob("*/*.safetensors"))
    shards[0].write_bytes(shards[0].read_bytes()[:-4])
    more = encode_toybox(vae, replace(CLIPS, num_clips=8), tmp_path, on_progress=on_progress)
    assert encoded[6:] == [(3, 8), (6, 8), (8, 8)] and torch.equal(more.mean[:7], first.mean)


def test_interrupted_encoding_resumes_after_last_shard(vae, small_shards, tmp_path):
    def stop(last: int, done: int, total: int) -> None:
        if done == last:
            raise KeyboardInterrupt

    for last, shards in ((2, 0), (5, 1), (6, 2), (7, 3)):
        with pytest.raises(KeyboardInterrupt):
            encode_toybox(vae, CLIPS, tmp_path, batch_size=2, on_progress=partial(stop, last))
        assert len(list(tmp_path.glob("*/*"))) == shards
    encode_toybox(vae, CLIPS, tmp_path, on_progress=partial(stop, 0))


def test_temporary_files_of_killed_processes_are_removed(vae, small_shards, tmp_path):
    encode_toybox(vae, CLIPS, tmp_path)
    shard, temporary = min(tmp_path.glob("*/*.safetensors")), []
    for _ in range(2):
        with atomic_write(shard) as partial_file:
            partial_file.write_bytes(shard.read_bytes())
        partial_file.touch()  # as if the process had been killed inside the block
        temporary.append(partial_file)
    old, new = temporary
    os.utime(old, (0, 0))
    encode_toybox(vae, CLIPS, tmp_path)
    assert not old.exists() and new.exists()


def test_an_unreadable_cache_is_a_user_error(vae, small_shards, tmp_path):
    encode_toybox(vae, CLIPS, tmp_path)
    shard = min(tmp_path.glob("*/*.safetensors"))
    shard.unlink()
    shard.mkdir()
    with pytest.raises(UserError, match=rf"cannot read .*{shard.name}"):
        encode_toybox(vae, CLIPS, tmp_path)


def test_whole_clips_have_their_own_norm_statistics_and_cache(vae, tmp_path):
    clips = replace(CLIPS, num_clips=2, num_frames=17)
    chunks, whole = (encode_toybox(vae, clips, tmp_path, norm_statistics=kind) for kind in ("chunk", "clip"))
    expected = vae.encode(render_clips(clips, [0, 1]), norm_statistics="clip")
    torch.testing.assert_close(whole.mean.float(), expected.mean, rtol=2**-8, atol=1e-6)
    assert not torch.equal(whole.mean, chunks.mean) and len(list(tmp_path.iterdir())) == 2
    assert fingerprint(vae, CLIPS, norm_statistics="clip") == fingerprint(vae, CLIPS)  # 5 frames are one chunk


def test_latents_in_bfloat16_have_their_own_cache_and_a_cpu_has_none(vae, tmp_path):
    names = {fingerprint(vae, CLIPS, bfloat16=bfloat16) for bfloat16 in (False, True)}
    assert len(names) == 2
    encode_toybox(vae, CLIPS, tmp_path, bfloat16=True)
    assert [folder.name for folder in tmp_path.iterdir()] == [fingerprint(vae, CLIPS)]


def test_the_vae_encodes_under_autocast(vae, monkeypatch):
    """The path of GPUs; without oneDNN, autocast applies to a CPU's convolutions too."""
    video = render_clips(CLIPS, [0, 1])
    with torch.no_grad():
        exact = vae.encode(video).mean
        monkeypatch.setattr("cogvideox.vae.inference.convolutions.ONEDNN_DTYPES", frozenset())
        with torch.autocast("cpu", torch.bfloat16):
            mixed = vae.encode(video).mean
    assert mixed.dtype == torch.bfloat16
    torch.testing.assert_close(mixed.float(), exact, rtol=0.1, atol=0.05)


def test_the_fingerprint_depends_on_encoder_and_clips(vae, tmp_path):
    before = fingerprint(vae, CLIPS)
    assert fingerprint(vae, replace(CLIPS, num_clips=8)) == before
    assert fingerprint(vae, replace(CLIPS, first_seed=1)) != before
    other = load_vae(tiny_runs.write_vae(tmp_path))
    with torch.no_grad():
        other.decoder.conv_out.weight.add_(1.0)
    assert fingerprint(other, CLIPS) == before
    with torch.no_grad():
        other.encoder.conv_in.bias[0] += 1.0
    assert fingerprint(other, CLIPS) != before
