import subprocess
import sys
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cogvideox import geometry
from cogvideox.errors import UserError


@pytest.mark.parametrize(("frames", "latents"), [(1, 1), (5, 2), (9, 3), (17, 5), (49, 13), (81, 21), (161, 41)])
def test_frames_and_latents(frames, latents):
    assert geometry.latent_frames(frames) == latents
    assert geometry.video_frames(latents) == frames


@pytest.mark.parametrize(
    ("frames", "nearest"),
    [(0, "1"), (-3, "1"), (2, "1 or 5"), (4, "1 or 5"), (12, "9 or 13"), (48, "45 or 49"), (50, "49 or 53")],
)
def test_the_error_for_an_invalid_frame_count_gives_the_rule_and_the_nearest(frames, nearest):
    for function in (geometry.check_frame_count, geometry.latent_frames):
        with pytest.raises(UserError) as caught:
            function(frames)
        assert str(caught.value) == (
            f"num_frames={frames} is not allowed: a video must have 4k+1 frames (1, 5, 9, ...); the nearest: {nearest}"
        )


@given(st.integers(-10, 2000))
def test_nearest_frame_counts_are_valid_and_nearest(frames):
    nearest = geometry.nearest_frame_counts(frames)
    for valid in nearest:
        geometry.check_frame_count(valid)
    assert min(abs(valid - frames) for valid in nearest) <= (2 if frames > 0 else 1 - frames)


@pytest.mark.parametrize(
    ("height", "width", "message"),
    [
        (470, 720, "height=470 is not a multiple of 16 pixels, as this model requires; the nearest: height=464 or 480"),
        (480, 3, "width=3 is not a multiple of 16 pixels, as this model requires; the nearest: width=16"),
        (
            0,
            -16,
            "height=0 and width=-16 are not multiples of 16 pixels, as this model requires; "
            "the nearest: height=16, width=16",
        ),
    ],
)
def test_the_error_for_an_invalid_size_gives_the_rule_and_the_nearest(height, width, message):
    with pytest.raises(UserError) as caught:
        geometry.check_size(height, width, 16)
    assert str(caught.value) == message


def test_valid_sizes_are_accepted():
    geometry.check_size(480, 720, 16)
    geometry.check_size(8, 8, 8)


@pytest.mark.parametrize(
    ("frames", "height", "width", "patch_t", "shape"),
    [
        (49, 480, 720, 1, (13, 60, 90)),
        (81, 768, 1360, 2, (22, 96, 170)),
        (161, 768, 1360, 2, (42, 96, 170)),
        (85, 768, 1360, 2, (22, 96, 170)),
        (1, 64, 64, 1, (1, 8, 8)),
    ],
)
def test_latent_shape_of_the_official_sizes(frames, height, width, patch_t, shape):
    assert geometry.latent_shape(frames, height, width, patch_t=patch_t) == shape


@pytest.mark.parametrize(
    ("latents", "chunks"),
    [(1, [1]), (2, [2]), (3, [3]), (4, [2, 2]), (5, [3, 2]), (13, [3, 2, 2, 2, 2, 2]), (22, [2] * 11)],
)
def test_decode_chunks(latents, chunks):
    assert geometry.decode_chunks(latents) == chunks


@pytest.mark.parametrize(
    ("frames", "chunks"),
    [(1, [1]), (5, [5]), (9, [9]), (13, [13]), (17, [9, 8]), (21, [13, 8]), (49, [9, 8, 8, 8, 8, 8])],
)
def test_encode_chunks(frames, chunks):
    assert geometry.encode_chunks(frames) == chunks


@given(st.integers(1, 200))
def test_chunks_sum_to_the_total_and_contain_whole_latents(latents):
    frames = geometry.video_frames(latents)
    pieces = geometry.encode_chunks(frames)
    assert sum(pieces) == frames
    assert sum(geometry.decode_chunks(latents)) == latents
    assert pieces[0] % 4 == 1
    assert all(piece % 4 == 0 for piece in pieces[1:])


def test_zero_frames_cannot_be_split():
    with pytest.raises(ValueError, match="cannot split 0 frames"):
        geometry.decode_chunks(0)


@given(*[st.integers(1, 3000)] * 4)
def test_cover_keeps_the_aspect_ratio_and_crops_the_center(height, width, target_height, target_width):
    fit = geometry.cover(height, width, target_height, target_width)
    assert fit.height >= target_height
    assert fit.width >= target_width
    assert fit.height == target_height or fit.width == target_width
    scale = max(target_height / height, target_width / width)
    assert abs(fit.height - height * scale) <= 1
    assert abs(fit.width - width * scale) <= 1
    assert 0 <= fit.height - target_height - 2 * fit.top <= 1
    assert 0 <= fit.width - target_width - 2 * fit.left <= 1


def test_geometry_does_not_import_torch():
    code = "import sys, cogvideox.geometry; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@given(st.integers(1, 2000), st.integers(1, 2000), st.sampled_from([16, 480, 720]), st.sampled_from([16, 64, 480]))
def test_contain_keeps_the_aspect_ratio_and_centers(height, width, target_height, target_width):
    """The whole frame fits, and one side equals the target's."""
    fit = geometry.contain(height, width, target_height, target_width)
    assert fit.height <= target_height and fit.width <= target_width
    assert fit.height == target_height or fit.width == target_width
    assert 0 <= target_height - fit.height - 2 * fit.top <= 1 and 0 <= target_width - fit.width - 2 * fit.left <= 1
    scale = min(target_height / height, target_width / width)
    assert abs(fit.height - max(1, height * scale)) <= 1 and abs(fit.width - max(1, width * scale)) <= 1


@given(st.integers(1, 60), st.integers(2, 20), st.integers(1, 19))
def test_time_windows_cover_all_frames_and_overlap_enough(num_latents, window, overlap):
    overlap = min(overlap, window - 1)
    windows = geometry.time_windows(num_latents, window, overlap)
    assert windows[0].start == 0 and windows[-1].stop == num_latents
    assert {len(piece) for piece in windows} == {min(window, num_latents)}
    for current, following in pairwise(windows):
        assert current.start < following.start and current.stop - following.start >= overlap


def test_size_for_aspect():
    size_range = (768, 1360)
    for image, size in (
        ((1080, 1920), (768, 1360)),
        ((1200, 900), (1024, 768)),
        ((500, 500), (768, 768)),
        ((100, 9000), (768, 1360)),
    ):
        assert geometry.size_for_aspect(*image, size_range, size_range, 16) == size


def test_round_down_frame_count():
    assert [geometry.round_down_frame_count(n) for n in (1, 4, 5, 48, 49, 50)] == [1, 1, 5, 45, 49, 49]


@pytest.mark.parametrize(
    ("size", "area", "expected"),
    [
        ((480, 720), 256 * 256, (208, 304)),
        ((720, 480), 256 * 256, (304, 208)),
        ((480, 720), 480 * 720, (480, 720)),
        ((500, 500), 256 * 256, (256, 256)),
        ((17, 900), 256 * 256, (16, 896)),
        ((50, 100), 256 * 256, (48, 96)),
    ],
)
def test_size_for_area(size, area, expected):
    assert geometry.size_for_area(*size, area, 16) == expected


def test_an_image_too_small_for_any_size_is_rejected():
    with pytest.raises(UserError, match="15x480 pixels are too small"):
        geometry.size_for_area(480, 15, 256 * 256, 16)


@given(st.integers(16, 2000), st.integers(16, 2000), st.integers(256, 10**6))
def test_size_for_area_is_valid_and_does_not_enlarge(height, width, area):
    h, w = geometry.size_for_area(height, width, area, 16)
    assert h % 16 == w % 16 == 0 and h <= height and w <= width and h * w <= area
