from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cogvideox.dataset.config import Target
from cogvideox.dataset.ingest.clip_windows import plan, views_of
from cogvideox.dataset.ingest.frame_reader import contact_sheet, read
from cogvideox.dataset.ingest.scan import recognise
from cogvideox.errors import UserError
from cogvideox.geometry import cover
from cogvideox.records import Clip
from tests.unit.dataset import clips

CLIP = Clip("id", Path("a.mp4"), None, None, 16.0, 720, 480, 160, "a ball")
TARGET = Target(fps=8.0, num_frames=17, max_area=256 * 256)


def pieces(clip: Clip, target: Target) -> list[tuple[float | None, float | None, int]]:
    return [(view.clip.start, view.clip.end, view.num_frames) for view in views_of(clip, target)]


def test_long_clips_become_windows():
    # 80 frames at 8 a second: four windows of 17, and of the 12 that are left 9.
    expected = [(k * 17 / 8, (k + 1) * 17 / 8, 17) for k in range(4)] + [(8.5, 8.5 + 9 / 8, 9)]
    assert pieces(CLIP, TARGET) == expected
    assert pieces(CLIP, replace(TARGET, windows="first")) == [(None, None, 17)]
    assert len({view.clip.id for view in views_of(CLIP, TARGET)}) == 5


def test_a_rest_of_less_than_five_frames_is_dropped():
    assert [num for *_, num in pieces(replace(CLIP, num_frames=2 * 21), TARGET)] == [17]
    assert [num for *_, num in pieces(replace(CLIP, num_frames=2 * 22), TARGET)] == [17, 5]


def test_short_clips_are_trimmed():
    assert pieces(replace(CLIP, num_frames=25), TARGET) == [(None, None, 13)]
    part = replace(CLIP, start=1.0, end=3.0, num_frames=32)
    assert pieces(part, TARGET) == [(1.0, 3.0, 13)]


def test_an_image_is_one_frame():
    image = replace(CLIP, fps=0.0, num_frames=1)
    (view,) = views_of(image, TARGET)
    assert (view.num_frames, view.fps, view.clip) == (1, 0.0, image)


def test_sizes():
    assert [(v.height, v.width) for v in views_of(CLIP, replace(TARGET, windows="first"))] == [(208, 304)]
    fixed = Target(8.0, 17, height=64, width=128, windows="first")
    (view,) = views_of(CLIP, fixed)
    assert (view.height, view.width, view.crop) == (64, 128, (56, 0, 361, 720))
    # What is smaller than the area is not enlarged.
    small = replace(CLIP, width=100, height=50)
    assert [(v.height, v.width) for v in views_of(small, replace(TARGET, windows="first"))] == [(48, 96)]


@pytest.mark.parametrize("size", [(480, 720), (720, 480), (17, 900), (333, 777), (16, 16)])
def test_the_crop_has_the_shape_of_the_view(size):
    (view,) = views_of(replace(CLIP, height=size[0], width=size[1]), replace(TARGET, windows="first"))
    top, left, height, width = view.crop
    assert 0 <= top <= top + height <= size[0] + 1 and 0 <= left <= left + width <= size[1] + 1
    place = cover(*size, view.height, view.width)
    assert abs(height / width - view.height / view.width) < 0.1 * height / width and place.top >= 0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"width": 1, "height": 1}, "it is too small: 1x1 pixels, and the least is 16x16"),
        ({"fps": 3.0}, "it has 3 frames a second, too few for the 8 that are wanted"),
        ({"num_frames": 8}, "it is too short: 4 frames at 8 frames a second, and a video has 5"),
    ],
)
def test_what_cannot_be_used_is_told(change, reason):
    views, rejects = plan([CLIP, replace(CLIP, **change)], TARGET)
    assert len(views) == 5 and rejects == [("a.mp4", reason)]


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"fps": 0.0}, "above 0"),
        ({"num_frames": 16}, "nearest: 13 or 17"),
        ({"height": 64}, "only one of them is given"),
        ({"height": 64, "width": 64}, "either by height and width or by their largest area"),
        ({"max_area": None}, "either by height and width or by their largest area"),
        ({"max_area": None, "height": 60, "width": 64}, "height=60 is not a multiple of 16"),
        ({"max_area": 100}, "the least is 16x16"),
    ],
)
def test_targets_are_checked(wrong, reason):
    with pytest.raises(UserError, match=reason):
        replace(TARGET, **wrong)


def test_frames_are_those_of_the_window(tmp_path):
    clips.video(tmp_path / "a.mp4", num_frames=22, fps=8.0)
    views = views_of(recognise(tmp_path).clips[0], Target(8.0, 9, height=32, width=48))
    assert [view.num_frames for view in views] == [9, 9]
    both = np.concatenate([read(view) for view in views]).astype(int)
    assert np.abs(both - clips.pixels(22)[:18]).mean() < 3


def test_a_file_that_ends_early_is_cut_or_refused(tmp_path):
    clips.video(tmp_path / "a.mp4", num_frames=11)
    (view,) = views_of(recognise(tmp_path).clips[0], Target(8.0, 9, max_area=48 * 32))
    assert len(read(replace(view, num_frames=13))) == 9
    with pytest.raises(UserError, match="it is truncated: of 17 frames it holds 11"):
        read(replace(view, num_frames=17))


def test_the_sheet_shows_what_the_model_sees(tmp_path):
    clips.video(tmp_path / "a.mp4")
    clips.picture(tmp_path / "b.png", size=(48, 32))
    damaged = clips.damaged(tmp_path)
    views, _ = plan(recognise(tmp_path).clips, Target(8.0, 17, max_area=1536))
    sheet, shown = contact_sheet(views)
    assert [view.clip.source.name for view in shown] == ["a.mp4", "b.png"]
    assert "half.mp4" in damaged and sheet.shape[2] == 3 and sheet.max() > 200
    with pytest.raises(UserError, match="there is nothing to show"):
        contact_sheet([view for view in views if view.clip.source.name == "half.mp4"])
