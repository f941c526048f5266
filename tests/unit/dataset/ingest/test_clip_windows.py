from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cogvideox.dataset.config import ClipFormat
from cogvideox.dataset.ingest.clip_windows import clip_windows
from cogvideox.dataset.ingest.frame_reader import contact_sheet, read_window
from cogvideox.dataset.ingest.scan import scan_folder
from cogvideox.errors import UserError
from cogvideox.geometry import cover
from cogvideox.records import Clip
from tests.unit.dataset import clips

CLIP = Clip("id", Path("a.mp4"), None, None, 16.0, 720, 480, 160, "a ball")
TARGET = ClipFormat(fps=8.0, num_frames=17, max_area=256 * 256)


def windows(clip: Clip, target: ClipFormat) -> list[tuple[float | None, float | None, int]]:
    return [(w.clip.start, w.clip.end, w.num_frames) for w in clip_windows(clip, target)]


def test_long_clips_are_cut_into_windows():
    # 80 frames at 8 fps: four windows of 17 frames, and one of 9 from the remaining 12.
    expected = [(k * 17 / 8, (k + 1) * 17 / 8, 17) for k in range(4)] + [(8.5, 8.5 + 9 / 8, 9)]
    assert windows(CLIP, TARGET) == expected
    assert windows(CLIP, replace(TARGET, windows="first")) == [(None, None, 17)]
    assert len({window.clip.id for window in clip_windows(CLIP, TARGET)}) == 5


def test_a_remainder_below_five_frames_is_dropped():
    assert [num for *_, num in windows(replace(CLIP, num_frames=2 * 21), TARGET)] == [17]
    assert [num for *_, num in windows(replace(CLIP, num_frames=2 * 22), TARGET)] == [17, 5]


def test_short_clips_are_trimmed_to_4k_plus_1_frames():
    assert windows(replace(CLIP, num_frames=25), TARGET) == [(None, None, 13)]
    part = replace(CLIP, start=1.0, end=3.0, num_frames=32)
    assert windows(part, TARGET) == [(1.0, 3.0, 13)]


def test_an_image_is_a_window_of_one_frame():
    image = replace(CLIP, fps=0.0, num_frames=1)
    (window,) = clip_windows(image, TARGET)
    assert (window.num_frames, window.fps, window.clip) == (1, 0.0, image)


def test_windows_have_the_target_size():
    assert [(v.height, v.width) for v in clip_windows(CLIP, replace(TARGET, windows="first"))] == [(208, 304)]
    fixed = ClipFormat(8.0, 17, height=64, width=128, windows="first")
    (window,) = clip_windows(CLIP, fixed)
    assert (window.height, window.width, window.crop) == (64, 128, (56, 0, 361, 720))
    # Clips below the maximum area are not enlarged.
    small = replace(CLIP, width=100, height=50)
    assert [(v.height, v.width) for v in clip_windows(small, replace(TARGET, windows="first"))] == [(48, 96)]


@pytest.mark.parametrize("size", [(480, 720), (720, 480), (17, 900), (333, 777), (16, 16)])
def test_the_crop_has_the_aspect_ratio_of_the_window(size):
    (window,) = clip_windows(replace(CLIP, height=size[0], width=size[1]), replace(TARGET, windows="first"))
    top, left, height, width = window.crop
    assert 0 <= top <= top + height <= size[0] + 1 and 0 <= left <= left + width <= size[1] + 1
    place = cover(*size, window.height, window.width)
    assert abs(height / width - window.height / window.width) < 0.1 * height / width and place.top >= 0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"width": 1, "height": 1}, "it is too small: 1x1 pixels, and the minimum is 16x16"),
        ({"fps": 3.0}, "its frame rate of 3 fps is too low for 8 fps"),
        ({"num_frames": 8}, "it is too short: 4 frames at 8 fps, and the minimum is 5"),
    ],
)
def test_unusable_clips_are_rejected_with_a_reason(change, reason):
    with pytest.raises(UserError) as error:
        clip_windows(replace(CLIP, **change), TARGET)
    assert str(error.value) == reason


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"fps": 0.0}, "above 0"),
        ({"num_frames": 16}, "nearest: 13 or 17"),
        ({"height": 64}, "only one of them is set"),
        ({"height": 64, "width": 64}, "either by height and width or by max_area"),
        ({"max_area": None}, "either by height and width or by max_area"),
        ({"max_area": None, "height": 60, "width": 64}, "height=60 is not a multiple of 16"),
        ({"max_area": 100}, "the minimum is 16x16"),
    ],
)
def test_invalid_formats_are_rejected(changes, reason):
    with pytest.raises(UserError, match=reason):
        replace(TARGET, **changes)


def test_windows_contain_their_frames(tmp_path):
    clips.video(tmp_path / "a.mp4", num_frames=22, fps=8.0)
    windows = clip_windows(scan_folder(tmp_path).clips[0], ClipFormat(8.0, 9, height=32, width=48))
    assert [window.num_frames for window in windows] == [9, 9]
    frames = np.concatenate([read_window(window) for window in windows]).astype(int)
    assert np.abs(frames - clips.pixels(22)[:18]).mean() < 3


def test_a_truncated_file_is_trimmed_or_rejected(tmp_path):
    clips.video(tmp_path / "a.mp4", num_frames=11)
    (window,) = clip_windows(scan_folder(tmp_path).clips[0], ClipFormat(8.0, 9, max_area=48 * 32))
    assert len(read_window(replace(window, num_frames=13))) == 9
    with pytest.raises(UserError, match="it is truncated: it has 11 of 17 frames"):
        read_window(replace(window, num_frames=17))


def test_the_preview_sheet_shows_the_windows(tmp_path):
    clips.video(tmp_path / "a.mp4")
    clips.image(tmp_path / "b.png", size=(48, 32))
    unusable = clips.write_unusable(tmp_path)
    target, windows = ClipFormat(8.0, 17, max_area=1536), []
    for clip in scan_folder(tmp_path).clips:
        with suppress(UserError):
            windows += clip_windows(clip, target)
    sheet, shown = contact_sheet(windows)
    assert [window.clip.source.name for window in shown] == ["a.mp4", "b.png"]
    assert "half.mp4" in unusable and sheet.shape[2] == 3 and sheet.max() > 200
    with pytest.raises(UserError, match="cannot make a preview sheet"):
        contact_sheet([window for window in windows if window.clip.source.name == "half.mp4"])
