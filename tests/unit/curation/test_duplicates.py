import numpy as np
import pytest

from cogvideox.curation.signals.perceptual_hash import hash_frame
from cogvideox.curation.stages.duplicates import Duplicates
from cogvideox.toybox.effects import camera, degradation


def clip_hash(frames: np.ndarray) -> str:
    return "".join(f"{hash_frame(frame):016x}" for frame in frames)


def find(hashes, embeddings=None, **settings):
    number = len(hashes)
    embeddings = None if embeddings is None else np.array(embeddings, dtype=np.float32)
    return Duplicates(**settings).find(hashes, embeddings, [(100, 2.0)] * number).tolist()


def test_copies_of_lower_quality_are_found_and_other_clips_are_not():
    clips = [camera.texture(seed, (96, 160))[None].repeat(4, axis=0) for seed in range(30)]
    copies = [degradation.jpeg(clip, 40)[:, ::2, ::2] for clip in clips[:5]]
    copies.append(degradation.expose(clips[5], 1.15))
    hashes = [clip_hash(clip) for clip in [*clips, *copies]]
    assert find(hashes) == [*range(30), *range(6)]


def test_the_largest_then_longest_clip_of_a_group_is_kept():
    same = "0123456789abcdef" * 4
    kept = Duplicates().find([same] * 3, None, [(100, 2.0), (400, 2.0), (400, 2.1)])
    assert kept.tolist() == [2, 2, 2]


def test_clips_of_other_length_and_flat_clips_are_no_duplicates():
    same, flat = "0123456789abcdef" * 4, "0" * 64
    kept = Duplicates().find([same, same, flat, flat], None, [(1, 2.0), (1, 5.0), (1, 2.0), (1, 2.0)])
    assert kept.tolist() == [0, 1, 2, 3]


def test_embeddings_confirm_candidates_and_find_more():
    first, second = "0123456789abcdef" * 4, "fedcba9876543210" * 4
    apart, near = [[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.01]]
    assert find([first, first], apart) == [0, 1]
    assert find([first, second], near) == [0, 0]
    assert find([first, second], near, same_cosine=2.0) == [0, 1]
    assert find([first, first], [[1.0, 0.0], [0.0, 0.0]]) == [0, 0]


def test_flat_clips_of_any_level_are_no_duplicates():
    levels = [np.full((4, 45, 61, 3), level, dtype=np.uint8) for level in (0, 16, 37, 128, 200, 255)]
    assert find([clip_hash(clip) for clip in levels]) == [*range(6)]


def test_all_of_a_large_group_are_joined():
    same = "0123456789abcdef"
    close = ["0123456789abcde0", "1123456789abcdef"]
    kept = find([close[0], *[same] * 500, close[1]])
    assert set(kept) == {0}
    lengths = [2.0, 5.0] * 300
    kept = Duplicates().find([same] * 600, None, [(100, length) for length in lengths]).tolist()
    assert kept == [0, 1] * 300


def test_equal_hashes_with_other_embeddings_are_told_apart_in_a_large_group():
    embeddings = [[1.0, 0.0] if row % 2 else [0.0, 1.0] for row in range(300)]
    assert find(["0123456789abcdef"] * 300, embeddings) == [0, 1] * 150


@pytest.mark.parametrize("num_frames", [1, 4])
@pytest.mark.parametrize("max_bits", [3, 5, 8, 11])
def test_all_pairs_up_to_the_bound_are_found_and_none_above(num_frames, max_bits):
    rng = np.random.default_rng(max_bits)
    size = 64 * num_frames
    for added in (0, 1):
        hashes = []
        for _ in range(60):
            bits = rng.integers(0, 2, size).astype(np.uint8)
            other = bits.copy()
            other[rng.permutation(size)[: max_bits * num_frames + added]] ^= 1
            hashes += [np.packbits(bits).tobytes().hex(), np.packbits(other).tobytes().hex()]
        kept = find(hashes, max_bits=float(max_bits))
        assert sum(kept[row] != row for row in range(1, 120, 2)) == (0 if added else 60)
