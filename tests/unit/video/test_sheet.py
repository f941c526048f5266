import numpy as np
import pytest

from cogvideox.video.sheet import GAP, MAX_LINES, contact_sheet, ends_and_middle, side_by_side

COLORS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (30, 60, 200), (128, 128, 128), (0, 0, 0)]


@pytest.mark.parametrize(
    ("shape", "sheet"),
    [
        ((9, 64, 64), (192 + 8, 9 * 196 + 4)),  # small frames in one row, enlarged three times
        ((25, 64, 64), (4 * 196 + 4, 7 * 196 + 4)),
        ((49, 480, 720), (7 * 217 + 4, 7 * 324 + 4)),  # large frames are downscaled
        ((2, 300, 200), (308, 412)),
        ((161, 16, 16), (7 * 196 + 4, 10 * 196 + 4)),  # at most 64 frames
    ],
)
def test_contact_sheet_size(shape, sheet):
    assert contact_sheet(np.zeros((*shape, 3), dtype=np.uint8)).shape == (*sheet, 3)


def test_contact_sheet_shows_the_frames_in_reading_order():
    sheet = contact_sheet(np.stack([np.full((64, 64, 3), color, dtype=np.uint8) for color in COLORS * 2]))
    centers = [sheet[4 + 96 + row * 196, 4 + 96 + column * 196] for row in range(3) for column in range(5)]
    assert [tuple(map(int, center)) for center in centers] == [*COLORS, *COLORS, (255, 255, 255)]


@pytest.mark.parametrize(("num_frames", "indices"), [(1, [0]), (2, [0, 1]), (9, [0, 4, 8]), (10, [0, 5, 9])])
def test_ends_and_middle_has_no_duplicates(num_frames, indices):
    assert ends_and_middle(num_frames) == indices


@pytest.mark.parametrize(
    ("num_videos", "columns", "rows", "across"), [(1, 3, 1, 1), (4, 3, 2, 3), (6, 2, 3, 2), (5, 1, 5, 1)]
)
def test_side_by_side_reading_order_and_black_padding(num_videos, columns, rows, across):
    videos = np.arange(1, num_videos * 3 + 1, dtype=np.uint8).reshape(num_videos, 3, 1, 1, 1).repeat(3, axis=-1)
    sheet = side_by_side(videos.repeat(2, axis=2).repeat(4, axis=3), columns)
    assert sheet.shape == (2 * rows, 3 * 4 * across, 3)
    pixels = sheet[::2, ::4, 0].ravel()
    assert pixels[: num_videos * 3].tolist() == list(range(1, num_videos * 3 + 1))
    assert not pixels[num_videos * 3 :].any()


def rendered_labels(*labels):
    """Return the label pixels above single-column gray videos, 64 high and 192 wide, for each label."""
    sheet = side_by_side(np.full((len(labels), 3, 64, 64, 3), 128, dtype=np.uint8), 1, labels)
    assert sheet.shape[1] == 192 + GAP
    tiles = np.split(sheet, len(labels))
    assert all((tile[-64 - GAP : -GAP, :192] == 128).all() for tile in tiles)
    return [tile[: -64 - GAP] for tile in tiles]


def test_a_label_is_drawn_above_each_video():
    first, other, empty, repeated = rendered_labels("a red ball", "a blue cube", "", "a red ball")
    assert first.max() == other.max() == 255 and not empty.any()
    assert np.array_equal(first, repeated) and not np.array_equal(first, other)
    (with_accents,) = rendered_labels("a réd bäll")
    assert not np.array_equal(first, with_accents)


def test_long_labels_are_wrapped_and_truncated():
    heights = [len(rendered_labels("word " * num_words)[0]) for num_words in (1, 12, 30, 1000)]
    assert heights[0] < heights[1] < heights[2] == heights[3]
    line = heights[1] - heights[0]
    assert heights[3] - heights[0] == (MAX_LINES - 1) * line
    complete, truncated = rendered_labels("word " * 18, "word " * 1000)
    assert truncated[-line:].any() and not np.array_equal(complete, truncated)
    assert rendered_labels("x" * 1000)[0].any()  # one word that is too long for a line
