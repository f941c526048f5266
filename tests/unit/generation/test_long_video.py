"""Frame arithmetic of long videos."""

from hypothesis import given
from hypothesis import strategies as st

from cogvideox.generation import long_video

frames = st.integers(0, 40).map(lambda k: 4 * k + 1)


def test_the_official_window():
    assert long_video.default_overlap(49) == 28
    assert long_video.num_context_frames(49, 28) == 25 and long_video.num_context_frames(10, 28) == 9
    assert long_video.default_extension(49, 49, 28) == 73
    assert long_video.default_extension(49, 49, None) == 97
    assert long_video.num_extension_frames(49, 73, 28) == 49
    assert long_video.chain_lengths(97, 49, continued=False) == [49, 49]
    assert long_video.chain_lengths(48, 49, continued=True) == [49]


@given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 20))
def test_an_extension_exceeds_num_frames_by_at_most_three(num_input_frames, num_new, overlap):
    context = long_video.num_context_frames(num_input_frames, 4 * overlap)
    total = long_video.num_extension_frames(num_input_frames, num_input_frames + num_new, 4 * overlap)
    assert 1 <= context <= num_input_frames and context % 4 == total % 4 == 1
    assert num_new <= total - context < num_new + 4


@given(st.integers(1, 400), st.integers(1, 20).map(lambda k: 4 * k + 1), st.booleans())
def test_a_chain_has_the_fewest_clips_that_reach_num_frames(num_frames, window, continued):
    lengths = long_video.chain_lengths(num_frames, window, continued=continued)
    new = [length - (1 if index or continued else 0) for index, length in enumerate(lengths)]
    assert all(length % 4 == 1 and length <= window for length in lengths)
    assert num_frames <= sum(new) < num_frames + 4
    assert sum(new[:-1]) < num_frames
