"""Shot boundaries of films with known cuts and dissolves."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("cv2")
pytest.importorskip("scenedetect")

from cogvideox.curation.stages.shots import Boundary, _detail_ratio, detail_energy
from cogvideox.curation.stages.split import Split, shot_ranges
from cogvideox.errors import UserError
from cogvideox.toybox.effects import camera, degradation, transitions
from tests.unit.curation.raw_files import edited, shot

FPS = 24.0


def find(frames: np.ndarray, make_finder: Callable[[], Any] = lambda: Split().finder(FPS)) -> list[Boundary]:
    finder = make_finder()
    for frame in frames:
        finder.add(frame)
    return finder.boundaries()


def films(seeds: range):
    """Films of five shots of random motion, with noise, and their transitions."""
    for seed in seeds:
        rng = np.random.default_rng(seed)
        shots = []
        for index in range(5):
            num_frames = int(rng.integers(40, 60))
            path = camera.pan(num_frames, tuple(rng.uniform(-1.5, 1.5, 2))) + camera.shake(
                num_frames, float(rng.uniform(0, 1)), seed + index
            )
            shots.append(camera.film(camera.texture(100 * seed + index, (200, 300)), path, (64, 96)))
        mixed = [int(rng.integers(6, 20)) if rng.random() < 0.5 else 0 for _ in range(4)]
        film, truth = transitions.join(shots, mixed)
        yield degradation.noise(film, 2.0, seed), truth


def score(seeds: range, make_finder: Callable[[], Any] = lambda: Split().finder(FPS)) -> dict[str, float]:
    """Return the F1 scores of cuts (exact frame) and dissolves (more than half of the mixed frames covered)."""
    hits = {"cut": 0, "dissolve": 0}
    total = {"cut": 0, "dissolve": 0}
    for film, truth in films(seeds):
        boundaries = find(film, make_finder)
        for boundary in boundaries:
            total[boundary.kind] += 1
        for transition in truth:
            kind = "dissolve" if transition.num_frames else "cut"
            total[kind] += 1
            first = transition.frame - transition.num_frames // 2
            last = first + max(transition.num_frames, 1)
            for boundary in boundaries:
                if kind == "cut":
                    hit = boundary.kind == "cut" and boundary.first == transition.frame
                else:
                    overlap = min(boundary.first, last) - max(boundary.last + 1, first)
                    hit = boundary.kind == "dissolve" and overlap > transition.num_frames / 2
                hits[kind] += hit
    return {kind: 2 * hits[kind] / total[kind] for kind in hits}


def test_cuts_and_dissolves_are_found():
    scores = score(range(3))
    assert scores["cut"] >= 0.97
    assert scores["dissolve"] >= 0.85


@pytest.mark.slow
def test_cuts_and_dissolves_of_many_films_are_found(record_property):
    scores = score(range(50, 70))
    print(scores)
    assert scores["cut"] >= 0.97
    assert scores["dissolve"] >= 0.85


def test_a_flash_and_a_moving_object_are_no_boundaries():
    still = shot(5, 48)
    flash = still.copy()
    flash[20:22] = 255
    assert find(flash) == []
    moving = still.copy()
    for index in range(48):
        moving[index, 20:50, index : index + 30] = (220, 30, 40)
    assert find(moving) == []


def test_a_jump_cut_is_found_at_its_frame():
    film, transition = transitions.jump_cut(shot(6, 80, (2.0, 1.0)), 30, 24)
    assert find(film) == [Boundary(transition.frame - 1, transition.frame, "cut")]


def test_a_frame_in_which_two_shots_are_mixed_belongs_to_neither():
    film, (cut,) = edited(7, [30, 30], [0])
    film[cut.frame] = (film[cut.frame - 1].astype(int) + film[cut.frame + 1]) // 2
    assert find(film) == [Boundary(cut.frame - 1, cut.frame + 1, "cut")]


def test_shots_lie_between_boundaries():
    boundaries = [Boundary(9, 10, "cut"), Boundary(19, 24, "dissolve")]
    shots = [(shot.first, shot.last, shot.begins_with, shot.ends_with) for shot in shot_ranges(boundaries, 40)]
    assert shots == [(0, 9, "start", "cut"), (10, 19, "cut", "dissolve"), (24, 39, "dissolve", "end")]


def test_long_shots_are_split_into_equal_parts():
    (shot_range,) = shot_ranges([], 100)
    times = [index / 10 for index in range(101)]
    clips = Split(min_seconds=1.0, max_seconds=4.0)._parts(shot_range, times)
    assert [(clip["start"], clip["end"]) for clip in clips] == [(0.0, 3.3), (3.3, 6.7), (6.7, 10.0)]
    assert [clip["num_frames"] for clip in clips] == [33, 34, 33]
    assert next((clip["begins_with"], clip["ends_with"]) for clip in clips) == ("start", "split")


def test_lengths_that_exclude_each_other_are_rejected():
    with pytest.raises(UserError, match="min_seconds=5 must be 0 or more and below max_seconds=3"):
        Split(min_seconds=5.0, max_seconds=3.0)


def test_a_moving_camera_keeps_the_detail_that_a_dissolve_loses():
    first, second = shot(1, 40, (1.0, 0.4)), shot(2, 40, (-0.8, 0.0))
    film, (dissolve,) = transitions.join([first, second], [20])
    start = dissolve.frame - 11
    assert _detail_ratio(detail(film[start : start + 22])) < 0.75
    assert _detail_ratio(detail(shot(3, 40, (2.0, 1.0)))) > 0.95


def detail(frames: np.ndarray) -> np.ndarray:
    return np.array([detail_energy(frame) for frame in frames])
