"""Marks of editing, on clips whose edits are known."""

import numpy as np
import pytest

pytest.importorskip("cv2")

from cogvideox.curation.signals.base import SampledFrames
from cogvideox.curation.signals.edits import (
    Edits,
    block_steps,
    color_jumps,
    mixed_share,
    prominence,
    step_lines,
    still_edges,
    still_edges_in_motion,
)
from cogvideox.toybox.effects import camera, edits, timing, transitions

FPS, SIZE = 16.0, (96, 160)


def shot(seed: int, num_frames: int = 32) -> np.ndarray:
    return camera.film(camera.texture(seed, (200, 300)), camera.pan(num_frames, (1.2, 0.5)), SIZE)


def measure(clip: np.ndarray) -> dict[str, float]:
    values = Edits().measure(SampledFrames(clip, np.arange(len(clip)) / FPS, len(clip) / FPS))
    return {name.removeprefix("edits."): value for name, value in values.items()}


def test_cuts_are_counted():
    plain, cut = measure(shot(0)), measure(transitions.join([shot(0, 16), shot(1, 16)], [0])[0])
    assert plain["cuts"] == 0.0 and plain["largest_jump"] < 1.0
    assert cut["cuts"] == pytest.approx(1 / 2.0) and cut["largest_jump"] > 2.0


def test_prominence_of_one_change():
    changes = np.full(20, 1.5)
    changes[7] = 15.5
    values = prominence(changes)
    assert values[7] == pytest.approx(3.0) and np.delete(values, 7).max() == 0.0


def test_dissolves_are_mixed():
    shots = [np.repeat(shot(seed, 1), 24, axis=0) for seed in range(2)]
    joined, _ = transitions.join(shots, [10])
    assert measure(shot(2))["mixed_share"] == measure(shots[0])["mixed_share"] == 0.0
    assert measure(joined)["mixed_share"] > 0.1


def test_a_linear_blend_is_mixed_everywhere():
    first, last = np.zeros((8, 8, 3), np.float32), np.full((8, 8, 3), 240, np.float32)
    blend = np.stack([first + (last - first) * step / 9 for step in range(10)])
    assert mixed_share(blend) == 1.0


def test_fades_and_repeated_frames():
    assert measure(transitions.fade(shot(0), 8))["fade"] < 0.1 < 0.8 < measure(shot(0))["fade"]
    assert measure(timing.time_lapse(shot(0), 4))["repeated_share"] == pytest.approx(24 / 31)


def test_edges_that_stay():
    plain = measure(shot(0))
    framed = measure(edits.decorated_frame(shot(0), 3))
    with_logo = measure(edits.logo(shot(0), 1, "top right"))
    assert plain["still_border"] < 0.2 and plain["still_line"] == 0.0
    assert framed["still_border"] > 2 * plain["still_border"] and framed["still_line"] >= 0.2
    assert with_logo["still_corner"] > 1.5 * plain["still_corner"]
    still = still_edges(np.repeat(shot(0, 1), 8, 0)[..., 0])
    assert still["still_edges"] > 0.9


@pytest.mark.parametrize("corner", edits.CORNERS)
def test_a_logo_is_pinned_while_the_camera_moves(corner):
    """A logo is the only part that stays; under a still camera nothing counts as pinned."""
    plain, with_logo = measure(shot(0)), measure(edits.logo(shot(0), 1, corner))
    assert plain["pinned_fraction"] < 0.002 < 0.005 < with_logo["largest_pinned"] <= with_logo["pinned_fraction"] < 0.1
    still = np.repeat(edits.logo(shot(0), 1, corner)[:1], 16, 0)
    assert measure(still)["pinned_fraction"] == measure(still)["moving_fraction"] == 0.0


def test_colors_before_and_after():
    assert measure(shot(0))["histogram_change"] < 0.4
    half = np.concatenate([np.full((8, 20, 20, 3), 200, np.uint8), np.full((8, 20, 20, 3), 20, np.uint8)])
    half[8:, :, :5] = 200  # a quarter keeps its color
    assert measure(half)["histogram_change"] == pytest.approx(0.75)


def test_too_few_frames():
    assert set(measure(shot(0, 2)).values()) == {None}


def test_a_change_of_all_colors_is_a_jump_of_one():
    frames = np.full((16, 20, 20, 3), 20, np.uint8)
    frames[8:] = 200
    assert color_jumps(frames)["color_jump"] == 1.0
    assert color_jumps(frames[:8]) == {"color_jump": 0.0, "color_jump_ratio": 0.0}


def test_blocks_step_together_in_a_cut_and_one_after_the_other_in_a_wipe():
    dark, bright = np.full((24, *SIZE, 3), 30, np.uint8), np.full((24, *SIZE, 3), 220, np.uint8)
    cut = block_steps(np.concatenate([dark[:12], bright[:12]]))
    assert cut["stepping_blocks"] == cut["simultaneous_steps"] == cut["abruptness"] == 1.0 and cut["step_times"] == 0.0
    wipe = block_steps(edits.wipe(dark, bright, 4, 16))
    assert wipe["stepping_blocks"] > 0.9 and wipe["step_times"] > 0.1 and wipe["simultaneous_steps"] < 0.5
    assert block_steps(dark)["stepping_blocks"] == block_steps(dark[:4])["stepping_blocks"] == 0.0


def test_a_split_screen_has_a_line_of_steps():
    halves = edits.split_screen(shot(0), shot(1))[..., 1]
    assert step_lines(halves[:8])["long_step_line"] > step_lines(shot(0)[:8, ..., 1])["long_step_line"] + 0.5
    step = np.zeros((4, 60, 80), np.uint8)
    step[:, :, 40:] = 255  # log2 of 256, and no steps beside it
    assert step_lines(step) == {"step_line": pytest.approx(8.0), "long_step_line": pytest.approx(8.0)}


def test_still_edges_amid_changes():
    frames = np.random.default_rng(0).integers(0, 255, (20, 60, 80), dtype=np.uint8)
    assert still_edges_in_motion(frames)["still_in_motion"] == 0.0
    frames[:, 28:32, 38:42] = [[0, 0, 255, 255]] * 4
    values = still_edges_in_motion(frames)
    assert 8 / 4800 <= values["still_in_motion"] <= 16 / 4800 and values["still_in_motion_ratio"] == 1.0
    assert still_edges_in_motion(np.repeat(frames[:1], 8, 0))["still_in_motion"] == 0.0
