"""Edits, screens, pages and people: what is changed, and that a seed repeats it."""

import numpy as np
import pytest

from cogvideox.toybox.effects import camera, edits, pages, people, screens
from cogvideox.toybox.effects.scenes import DARK, LIGHT
from cogvideox.toybox.effects.text import TextStyle

SIZE, NUM_FRAMES = (90, 160), 12


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    return camera.film(camera.texture(0, (200, 300)), camera.pan(NUM_FRAMES, (1.0, 0.5)), SIZE)


@pytest.fixture(scope="module")
def other() -> np.ndarray:
    return camera.film(camera.texture(1, (200, 300)), camera.pan(NUM_FRAMES, (-1.0, 0.5)), SIZE)


@pytest.mark.parametrize("corner", edits.CORNERS)
def test_picture_in_picture_changes_one_corner(clip, other, corner):
    changed = (edits.picture_in_picture(clip, other, corner, 0.3, (255, 255, 255)) != clip).any((0, 3))
    rows = slice(45, None) if "top" in corner else slice(None, 45)
    columns = slice(80, None) if "left" in corner else slice(None, 80)
    assert changed.any() and not changed[rows].any() and not changed[:, columns].any()


@pytest.mark.parametrize("shape", ["ring", "badge", "star"])
def test_logo_stays(clip, shape):
    marked = edits.logo(clip, 3, "bottom right", 1.0, shape)
    changed = (marked != clip).any((0, 3))
    assert changed[60:, 130:].any() and not changed[:60].any()
    full = (marked == marked[:1]).all((0, 3)) & changed
    assert full.mean() > 0.15 * changed.mean(), "an opaque logo hides the moving picture"


def test_split_screen_shows_both(clip, other):
    split = edits.split_screen(clip, other)
    np.testing.assert_array_equal(split[:, :, :78], clip[:, :, 40:118])
    np.testing.assert_array_equal(split[:, :, 82:], other[:, :, 42:120])
    assert edits.split_screen(clip, other, vertical=False).shape == clip.shape


def test_blurred_sides_keep_the_middle(clip):
    output = edits.blurred_sides(clip, 0.5)
    np.testing.assert_array_equal(output[:, :, 40:120], clip[:, :, 40:120])
    assert output[:, :, :40].mean() < 0.75 * clip.mean()


def test_decorated_frame_does_not_move(clip):
    output = edits.decorated_frame(clip, 2, 0.1)
    assert (output[:, :9] == output[:1, :9]).all() and not (output[0, 20:70] == output[-1, 20:70]).all()


def test_wipe_ends_with_the_second_clip(clip, other):
    output = edits.wipe(clip, other, 2, 6)
    np.testing.assert_array_equal(output[:2], clip[:2])
    np.testing.assert_array_equal(output[8:], other[8:])


@pytest.mark.parametrize(("effect", "expected"), [("invert", 255), ("mirror", None), ("tint", None)])
def test_strobe_alternates(clip, effect, expected):
    output = edits.strobe(clip, 3, effect)
    np.testing.assert_array_equal(output[:3], clip[:3])
    assert (output[3:6] != clip[3:6]).any()
    if expected:
        np.testing.assert_array_equal(output[3:6], expected - clip[3:6])


def make_clips() -> dict[str, np.ndarray]:
    document = screens.page(SIZE, 4, LIGHT)
    base = np.repeat(camera.texture(5, SIZE)[None], 6, 0)
    style = TextStyle(size=0.1)
    return {
        "terminal": screens.terminal(6, SIZE, 1, DARK, title=True),
        "scroll": screens.scroll(document, 6, SIZE[0], 1),
        "window": screens.window(base, 1, LIGHT),
        "filmed": screens.filmed_screen(base, 1, 5.0),
        "credits": pages.credits_roll(6, SIZE, 1, style, (0, 0, 0)),
        "card": pages.title_card(base, 1, 2, style),
        "captions": pages.captions_over(base, 1, style),
        "office": people.presenter(6, SIZE, 1, 12.0),
        "library": people.presenter(6, SIZE, 1, 12.0, "library"),
        "photo": people.talking_photo(base[0], (80.0, 40.0, 25.0), 6, 1, 12.0),
    }


def test_seeds_repeat_and_sizes_hold():
    first, second = make_clips(), make_clips()
    for name, output in first.items():
        assert output.shape == (6, *SIZE, 3) and output.dtype == np.uint8, name
        np.testing.assert_array_equal(output, second[name], err_msg=name)


def test_only_the_person_moves():
    moved = np.ptp(people.presenter(8, SIZE, 1, 12.0).astype(int), axis=0).max(-1) > 8
    assert moved[:, 40:120].any() and not moved[:, :20].any()
    photo = camera.texture(7, SIZE)
    talking = people.talking_photo(photo, (80.0, 45.0, 20.0), 8, 1, 12.0)
    moved = np.ptp(talking.astype(int), axis=0).max(-1) > 4
    assert moved[45:65, 70:90].mean() > 0.5 and not moved[:, :25].any()


def test_filmed_screens_have_a_dark_bezel(clip):
    filmed = screens.filmed_screen(clip, 3, 5.0, sway=0.0)
    gray = filmed.mean((0, 3))
    assert gray[:8].mean() < gray[30:60, 40:120].mean()
