import numpy as np
import pytest

from cogvideox.video.sheet import ends_and_middle, side_by_side


@pytest.mark.parametrize(("num_frames", "shown"), [(1, [0]), (2, [0, 1]), (9, [0, 4, 8]), (10, [0, 5, 9])])
def test_the_ends_and_the_middle_each_once(num_frames, shown):
    assert ends_and_middle(num_frames) == shown


@pytest.mark.parametrize(
    ("num_videos", "columns", "rows", "across"), [(1, 3, 1, 1), (4, 3, 2, 3), (6, 2, 3, 2), (5, 1, 5, 1)]
)
def test_videos_stand_in_reading_order_and_the_rest_is_black(num_videos, columns, rows, across):
    shown = np.arange(1, num_videos * 3 + 1, dtype=np.uint8).reshape(num_videos, 3, 1, 1, 1).repeat(3, axis=-1)
    sheet = side_by_side(shown.repeat(2, axis=2).repeat(4, axis=3), columns)
    assert sheet.shape == (2 * rows, 3 * 4 * across, 3)
    places = sheet[::2, ::4, 0].ravel()
    assert places[: num_videos * 3].tolist() == list(range(1, num_videos * 3 + 1))
    assert not places[num_videos * 3 :].any()
