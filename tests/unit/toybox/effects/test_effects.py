"""Effects are exact: optical flow, positions of transitions and text, and strengths."""

import numpy as np
import pytest

from cogvideox.toybox.effects import camera, degradation, scenes, text, timing, transitions

SIZE = (72, 96)


@pytest.fixture(scope="module")
def canvas():
    return camera.texture(1, (200, 260))


@pytest.fixture(scope="module")
def clip(canvas):
    return camera.film(canvas, camera.pan(12, (2.0, 1.0)), SIZE)


def test_a_pan_moves_the_image_against_the_camera_by_whole_pixels(clip):
    assert np.array_equal(clip[1, :-1, :-2], clip[0, 1:, 2:])


def test_the_flow_of_a_path_is_where_the_canvas_moves(canvas):
    path = camera.pan(2, (3.0, -1.0)) + camera.zoom(2, 0.05) + camera.shake(2, 1.0, seed=0)
    smooth = degradation.blur(canvas[None], 4.0)[0]
    before, after = camera.film(smooth, path, SIZE).astype(float)
    flow = camera.flow_of(path, SIZE)[0]
    y, x = np.mgrid[20:50:5, 20:70:5]
    moved_x, moved_y = x + flow[y, x, 0], y + flow[y, x, 1]
    nearest = after[moved_y.round().astype(int), moved_x.round().astype(int)]
    assert np.abs(nearest - before[y, x]).mean() < 0.5 * np.abs(after[y, x] - before[y, x]).mean()


def test_shake_has_the_given_amplitude_and_no_drift():
    path = camera.shake(240, 3.0, seed=1, fps=24.0)
    assert path.shift.std(axis=0) == pytest.approx([3.0, 3.0], rel=0.1)
    assert abs(path.shift.mean()) < 0.5


def test_transitions_are_at_the_reported_frames(clip, canvas):
    other = camera.film(canvas[::-1], camera.pan(12, (0.0, 0.0)), SIZE)
    joined, (cut, dissolve) = transitions.join([clip, other, clip], [0, 5])
    assert len(joined) == 12 + 12 + 12 - 5
    assert cut == transitions.Transition(12)
    assert np.array_equal(joined[11], clip[-1])
    assert np.array_equal(joined[12], other[0])
    middle = joined[dissolve.frame].astype(float)
    assert np.abs(middle - (other[-3].astype(float) + clip[2]) / 2).max() <= 1


def test_a_jump_cut_removes_frames(clip):
    cut, transition = transitions.jump_cut(clip, 4, 3)
    assert len(cut) == 9
    assert np.array_equal(cut[transition.frame], clip[7])


def test_fades_start_and_end_in_black(clip):
    faded = transitions.fade(clip, 3)
    assert faded[0].max() == faded[-1].max() == 0
    assert np.array_equal(faded[5], clip[5])


def test_a_freeze_repeats_one_frame_and_keeps_the_length(clip):
    frozen = timing.freeze(clip, 3, 5)
    assert len(frozen) == len(clip)
    assert (frozen[3:8] == clip[3]).all()
    assert np.array_equal(frozen[8:], clip[8:])


def test_a_time_lapse_holds_each_kept_frame(clip):
    lapse = timing.time_lapse(clip, 4)
    assert (lapse[4:8] == clip[4]).all()


def test_a_slide_show_shows_each_image_in_turn(clip):
    show = timing.slide_show([clip[0], clip[6]], 4)
    assert (show[:4] == clip[0]).all()
    assert (show[4:] == clip[6]).all()
    zoomed = timing.slide_show([clip[0]], 4, zoom_rate=0.02)
    assert not np.array_equal(zoomed[0], zoomed[3])


def test_an_overlay_changes_only_its_box(clip):
    drawn, (left, top, right, bottom) = text.overlay(clip, "Hello", "top right")
    outside = np.ones(clip.shape[1:3], bool)
    outside[top:bottom, left:right] = False
    assert (drawn[:, outside] == clip[:, outside]).all()
    assert (drawn != clip).any(axis=(1, 2, 3)).all()
    assert right <= SIZE[1]
    assert left > SIZE[1] // 2


def test_painted_text_moves_with_the_scene(canvas):
    painted = text.paint(canvas, "CAFE", (110, 90), 72)
    filmed = camera.film(painted, camera.pan(4, (2.0, 0.0)), SIZE)
    assert np.array_equal(filmed[1, :, :-2], filmed[0, :, 2:])
    assert not np.array_equal(filmed[0], camera.film(canvas, camera.pan(1, (0.0, 0.0)), SIZE)[0])


def test_a_ticker_scrolls_left(clip):
    still = np.zeros_like(clip)
    scrolled = text.ticker(still, "breaking news", 3.0)
    band = scrolled[:, -5:].astype(int)
    letters = (np.abs(band - band[0, -1, 0]).sum(-1) > 200).any(1)
    first = [columns.argmax() for columns in letters if columns.any()]
    assert first == sorted(first, reverse=True)


@pytest.mark.parametrize("draw", [scenes.slides, scenes.screen_recording, scenes.talking_head])
def test_scenes_are_reproducible_and_differ_between_seeds(draw):
    first, repeated, different = draw(6, SIZE, 1), draw(6, SIZE, 1), draw(6, SIZE, 2)
    assert first.shape == (6, *SIZE, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, repeated)
    assert not np.array_equal(first, different)


def test_degradations_have_the_given_strength(clip):
    assert (degradation.noise(np.full_like(clip, 128), 10.0, 0).std()) == pytest.approx(10, rel=0.02)
    assert degradation.expose(clip, 3.0).max() == 255
    bordered = degradation.add_borders(clip, 0.25)
    assert bordered[:, : SIZE[0] // 4].max() == bordered[:, -SIZE[0] // 4 :].max() == 0
    assert np.array_equal(bordered[:, 20:-20], clip[:, 20:-20])
    errors = [np.abs(degradation.jpeg(clip, quality).astype(int) - clip).mean() for quality in (90, 30, 5)]
    assert errors == sorted(errors)
    assert degradation.moire(clip, 6.0, 0.5).std() > clip.std()
    sharp = np.abs(np.diff(clip.astype(int), axis=2)).mean()
    for blurred in (degradation.blur(clip, 2.0), degradation.enlarge(clip, 4.0)):
        assert np.abs(np.diff(blurred.astype(int), axis=2)).mean() < sharp / 2
