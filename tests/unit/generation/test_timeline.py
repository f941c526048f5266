from hypothesis import given
from hypothesis import strategies as st

from cogvideox.generation import long_video

frames = st.integers(0, 40).map(lambda k: 4 * k + 1)


def test_the_official_window():
    assert long_video.default_overlap(49) == 28
    assert long_video.kept(49, 28) == 25 and long_video.kept(10, 28) == 9
    assert long_video.default_extension(49, 49, 28) == 73
    assert long_video.default_extension(49, 49, None) == 97
    assert long_video.made(49, 73, 28) == 49
    assert long_video.links(97, 49, from_given=False) == [49, 49]
    assert long_video.links(48, 49, from_given=True) == [49]


@given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 20))
def test_what_is_made_after_a_clip_is_enough_and_little_more(num_given, more, overlap):
    before = long_video.kept(num_given, 4 * overlap)
    made = long_video.made(num_given, num_given + more, 4 * overlap)
    assert 1 <= before <= num_given and before % 4 == made % 4 == 1
    assert more <= made - before < more + 4


@given(st.integers(1, 400), st.integers(1, 20).map(lambda k: 4 * k + 1), st.booleans())
def test_a_chain_is_long_enough_and_no_link_too_many(num_frames, window, from_given):
    lengths = long_video.links(num_frames, window, from_given=from_given)
    new = [length - (1 if number or from_given else 0) for number, length in enumerate(lengths)]
    assert all(length % 4 == 1 and length <= window for length in lengths)
    assert num_frames <= sum(new) < num_frames + 4
    assert sum(new[:-1]) < num_frames
