"""The speech signal: the sound that it reads from files, and what it computes from the detector's probabilities."""

from pathlib import Path

import av
import numpy as np
import pytest

from cogvideox.curation.model_files import FOLDER_VARIABLE
from cogvideox.curation.signals.base import ClipInput
from cogvideox.curation.signals.models import speech
from cogvideox.curation.signals.models.speech import Speech
from cogvideox.errors import UserError
from cogvideox.video.reading.audio import read_audio


def write_tone(path: Path, seconds: float, frequencies: list[float], rate: int = 44100) -> None:
    """Write a stereo sound file of equally long tones."""
    num_samples = round(seconds * rate / len(frequencies))
    tones = [0.5 * np.sin(2 * np.pi * frequency * np.arange(num_samples) / rate) for frequency in frequencies]
    sound = np.concatenate(tones).astype(np.float32)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=rate, layout="stereo")
        frame = av.AudioFrame.from_ndarray(
            np.stack([sound, sound], -1).reshape(1, -1).copy(), format="flt", layout="stereo"
        )
        frame.rate = rate
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)


def frequency(sound: np.ndarray) -> float:
    return float(np.abs(np.fft.rfft(sound)).argmax() * 16000 / len(sound))


def test_part_of_the_sound_is_read_as_16_khz_mono(tmp_path: Path):
    write_tone(tmp_path / "tones.wav", 4.0, [400.0, 1000.0])
    first = read_audio(tmp_path / "tones.wav", 0.5, 1.5, 16000)
    second = read_audio(tmp_path / "tones.wav", 2.5, 3.5, 16000)
    assert len(first) == len(second) == 16000
    assert frequency(first) == pytest.approx(400, abs=2) and frequency(second) == pytest.approx(1000, abs=2)
    assert np.abs(first).max() == pytest.approx(0.5, abs=0.01)
    assert len(read_audio(tmp_path / "tones.wav", 3.0, 9.0, 16000)) == 16000


def test_share_and_loudness():
    sound = np.full(5 * 512, 0.1, np.float32)
    measured = Speech().measure(sound, lambda _: np.array([0.9, 0.5, 0.1, 0.2, 0.6]))
    assert measured["speech.share"] == 0.6
    assert measured["speech.loudness"] == pytest.approx(-20.0)


def test_clip_without_sound_has_no_values():
    assert set(Speech().measure(np.zeros(0, np.float32), lambda _: np.zeros(0)).values()) == {None}


def test_damaged_file_is_reported(tmp_path: Path):
    (tmp_path / "clip.mp4").write_bytes(b"not a video")
    with pytest.raises(UserError, match=r"cannot read .*clip\.mp4"):
        read_audio(tmp_path / "clip.mp4", 0.0, 1.0, 16000)


def test_missing_model_is_named(monkeypatch):
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    assert any("none.onnx is not a file" in need for need in Speech(model="none.onnx").missing_requirements())


def test_an_image_has_no_speech_and_its_file_is_not_read(monkeypatch):
    monkeypatch.setattr(speech, "load_detector", lambda path: None)
    measure = Speech(model=__file__).open()
    image = ClipInput({"is_image": True}, (), Path("photo.png"), 0.0, 0.0)
    assert measure(image) == {"speech.share": None, "speech.loudness": None}
