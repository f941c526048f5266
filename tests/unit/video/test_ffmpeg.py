"""A few clips of each group of the media corpus against the FFmpeg command line; `tests/media` compares all."""

import shutil

import pytest

from tests.media import compare, corpus

pytestmark = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="the command ffmpeg is not installed")

NAMES = (
    *("libx264-b-variable.mp4", "mpeg2video-constant.mpg", "libvpx-vp9-constant.webm", "transposed-wide.mov"),
    *("bt2020nc-tv-yuv420p10le.mp4", "ffv1-yuva420p.mkv", "libx265-smpte2084.mp4", "cut-3.mp4"),
)
CLIPS = {clip.name: clip for group in corpus.GROUPS for clip in group()}


@pytest.mark.parametrize("name", NAMES)
def test_frames_and_times_are_those_of_ffmpeg(tmp_path, name):
    assert compare.compare(CLIPS[name], tmp_path).problem == ""
