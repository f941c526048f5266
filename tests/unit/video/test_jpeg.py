import numpy as np

from cogvideox.video.jpeg import decode_jpeg, encode_jpeg


def test_jpeg_round_trip():
    y, x = np.mgrid[0:40, 0:60]
    frame = np.stack([x * 4, y * 6, x + y], -1).astype(np.uint8)
    assert np.abs(decode_jpeg(encode_jpeg(frame)).astype(int) - frame).mean() < 3


def test_large_frames_are_downscaled_and_small_frames_are_not():
    assert decode_jpeg(encode_jpeg(np.zeros((400, 100, 3), np.uint8), 200)).shape == (200, 50, 3)
    assert decode_jpeg(encode_jpeg(np.zeros((40, 10, 3), np.uint8), 200)).shape == (40, 10, 3)
