"""Audio tracks: times relative to the first video frame, and no references to other files."""

import av
import numpy as np
import pytest

from cogvideox.errors import UserError
from cogvideox.video.reading.audio import read_audio

RATE = 16_000


def write(path, offset=0.0):
    """Write 3 s of gray video and a beep from 1.0 to 1.5 s; all timestamps start at `offset` seconds."""
    times = np.arange(3 * RATE) / RATE
    beep = 0.5 * np.sin(2 * np.pi * 440 * times) * ((times >= 1.0) & (times < 1.5))
    with av.open(str(path), "w") as container:
        video, audio = container.add_stream("mpeg4", rate=25), container.add_stream("pcm_s16le", rate=RATE)
        video.width = video.height = 32
        audio.layout = "mono"
        for index in range(75):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 128, np.uint8), format="rgb24")
            frame.pts = index + round(offset * 25)
            container.mux(video.encode(frame))
        container.mux(video.encode())
        for first in range(0, len(beep), 1600):
            samples = (beep[None, first : first + 1600] * 32767).astype(np.int16)
            audio_frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            audio_frame.sample_rate, audio_frame.pts = RATE, first + round(offset * RATE)
            container.mux(audio.encode(audio_frame))
        container.mux(audio.encode())
    return path


@pytest.mark.parametrize("offset", [0.0, 5.0])
def test_times_are_seconds_from_the_first_video_frame(tmp_path, offset):
    path = write(tmp_path / "beep.mkv", offset)
    loud = np.flatnonzero(np.abs(read_audio(path, 0.0, 3.0, RATE)) > 0.05) / RATE
    assert loud.min() == pytest.approx(1.0, abs=0.02)
    assert loud.max() == pytest.approx(1.5, abs=0.02)
    part = read_audio(path, 1.25, 2.0, RATE)
    assert len(part) == pytest.approx(0.75 * RATE, rel=0.02)
    assert np.abs(part[: RATE // 5]).max() > 0.4 > 0.01 > np.abs(part[RATE // 2 :]).max()


def test_a_video_without_audio_gives_no_samples(tmp_path):
    path = tmp_path / "silent.mkv"
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=25)
        video.width = video.height = 32
        container.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        container.mux(video.encode())
    assert read_audio(path, 0.0, 1.0, RATE).size == 0


def test_a_file_that_refers_to_another_is_rejected(tmp_path):
    write(tmp_path / "beep.mkv")
    playlist = tmp_path / "list.mp4"
    playlist.write_text("ffconcat version 1.0\nfile beep.mkv\n")
    with pytest.raises(UserError, match=r"list\.mp4"):
        read_audio(playlist, 0.0, 1.0, RATE)
