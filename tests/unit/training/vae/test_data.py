"""Training clips from a user's folder: random windows at a usable frame rate; unusable files are skipped."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cogvideox.errors import UserError
from cogvideox.records import Video
from cogvideox.training.vae.clip_sources import open_sources
from cogvideox.training.vae.trainer import train
from tests import tiny_runs

SETTINGS = replace(tiny_runs.vae_run(), frame_rates=(8.0, 16.0))


def write(path: Path, num_frames: int, fps: float, side: int = 16, red: int = 0) -> None:
    """Write a video or image. The green channel of frame k is 8 k."""
    frames = np.zeros((num_frames, side, side, 3), np.uint8)
    frames[..., 0] = red
    frames[..., 1] = (8 * np.arange(num_frames)).clip(max=255)[:, None, None]
    Video(frames, fps).save(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write(folder / "long.mp4", 32, 16.0)
    write(folder / "short.mp4", 6, 16.0, red=200)  # has 5 frames at 16 fps, but not at 8
    write(folder / "slow.mp4", 30, 3.0)
    write(folder / "tiny.mp4", 30, 16.0, side=4)
    write(folder / "image.png", 1, 1.0, side=40, red=100)
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("no video")
    (folder / "truncated.mp4").write_bytes((folder / "long.mp4").read_bytes()[:300])
    return folder


def test_unusable_files_are_skipped_and_reported(folder, capsys):
    source, held_out = open_sources(replace(SETTINGS, data=str(folder)))
    stderr = capsys.readouterr().err
    for name in ("empty", "text", "truncated"):
        assert f"{name}.mp4" in stderr
    assert {clip.source.stem for clip in source.videos} == {"long", "short"}
    assert [clip.source.stem for clip in source.images] == ["image"]
    assert held_out.num_clips == 1  # a training video, because 2 are too few to hold one out
    assert "2 videos for training, 1 of them also for validation" in stderr


def test_windows_have_random_starts_and_the_requested_rate(folder):
    source, _ = open_sources(replace(SETTINGS, data=str(folder)))
    names = [clip.source.stem for clip in source.videos]
    rng, starts = np.random.default_rng(0), set()
    for fps, frame_step in ((16.0, 1), (8.0, 2)):
        for _ in range(4):
            clip = source.load_clips([names.index("long")], fps, rng)
            assert clip.shape == (1, 3, 5, 16, 16)
            frames = ((clip[0, 1].mean((1, 2)) + 1) * 127.5 / 8).round()
            assert (frames.diff() == frame_step).all()
            starts.add(frames[0].item())
    assert len(starts) > 2
    short = source.load_clips([names.index("short")], 8.0, rng)  # too short for 8 fps, so read at 16
    assert (((short[0, 1].mean((1, 2)) + 1) * 127.5 / 8).round().diff() == 1).all()
    assert source.load_images([0, 0], rng).shape == (2, 3, 1, 16, 16)


def test_a_file_that_becomes_unreadable_is_skipped(folder, tmp_path, capsys):
    write(tmp_path / "a.mp4", 32, 16.0, red=50)
    write(tmp_path / "b.mp4", 32, 16.0, red=150)
    source, _ = open_sources(replace(SETTINGS, data=str(tmp_path)))
    first, second = (clip.source for clip in source.videos)
    first.write_bytes(b"")
    rng = np.random.default_rng(0)
    replacement, expected = (source.load_clips([index], 8.0, rng)[:, 0].mean() for index in (0, 1))
    torch.testing.assert_close(replacement, expected, atol=0.05, rtol=0)
    assert f"skipped: cannot read {first}" in capsys.readouterr().err
    second.write_bytes(b"")
    with pytest.raises(UserError, match="no clip can be read"):
        source.load_clips([0], 8.0, rng)


def test_a_folder_without_usable_clips_is_rejected(folder, tmp_path):
    write(tmp_path / "short.mp4", 3, 8.0)
    with pytest.raises(UserError, match=r"no clip \(of 1\) can be used for training: a clip needs 5 frames at 8 or 16"):
        open_sources(replace(SETTINGS, data=str(tmp_path)))
    with pytest.raises(UserError, match="missing not found"):
        open_sources(replace(SETTINGS, data=str(tmp_path / "missing")))


def test_a_vae_trains_on_a_folder(folder, tmp_path):
    settings = replace(tiny_runs.vae_gan_run(num_steps=5), data=str(folder))
    assert train(settings, tmp_path / "run") is not None
    assert (tmp_path / "run/vae/config.json").is_file()
