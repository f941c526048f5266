"""Inputs are the same from files and from memory."""

import numpy as np
import pytest
from PIL import Image

from cogvideox import Video
from cogvideox.generation.request.input_sources import InputSource
from cogvideox.generation.request.inputs import read_inputs


@pytest.mark.parametrize("fps", [5.0, 8.0, 16.0, 30.0])
def test_a_video_in_memory_is_sampled_like_its_file(clip, tmp_path, fps):
    Video(clip, 16.0).save(tmp_path / "x.mp4")
    loaded = Video.load(tmp_path / "x.mp4")
    for max_frames in (None, 4):
        from_file, in_memory = (
            read_inputs(None, video, fps=fps, max_frames=max_frames).video for video in (tmp_path / "x.mp4", loaded)
        )
        assert np.array_equal(from_file, in_memory)


@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_the_exif_orientation_is_applied(tmp_path, orientation, turns):
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:20, :30] = 200, 40, 40
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "x.jpg", exif=exif, quality=95)
    upright = np.rot90(pixels, turns).astype(int)
    for image in (tmp_path / "x.jpg", Image.open(tmp_path / "x.jpg")):
        read = read_inputs(image, None, fps=8.0).image
        assert read.shape == upright.shape and np.abs(read - upright).mean() < 3


def test_sources_are_identified_by_content(clip, tmp_path):
    Image.fromarray(clip[0]).save(tmp_path / "x.png")
    source = read_inputs(tmp_path / "x.png", None, fps=8.0).image_source
    assert source.path == str(tmp_path / "x.png")
    assert np.array_equal(read_inputs(source, None, fps=8.0).image, clip[0])
    memory = [read_inputs(image, None, fps=8.0).image_source for image in (clip[0], clip[0].copy(), clip[1])]
    assert memory[0] == memory[1] != memory[2] and memory[0].path is None
    # The number of frames that are read does not change the source.
    assert len({read_inputs(None, clip, fps=8.0, max_frames=n).video_source for n in (1, 5, None)}) == 1
    assert isinstance(source, InputSource)
