"""Files of every kind are probed with the values that players show, and split at exact times."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

pytest.importorskip("cv2")
pytest.importorskip("scenedetect")

from cogvideox.curation.pipeline import FileItem, ProcessFiles, attempt
from cogvideox.curation.stages.probe import Probe
from cogvideox.curation.stages.split import Split
from cogvideox.errors import UserError
from tests.unit.curation.raw_files import edited, shot, write_with_times


def process(path: Path) -> tuple[dict, list[dict]]:
    """Return the values of probe, and the clips."""
    work = ProcessFiles(Probe(), Split(), 0).open(0)
    probed, split = work([FileItem("key", str(path), None, True)]).results
    assert probed.error is None, probed.error
    assert split.error is None, split.error
    return probed.values, split.values["clips"]


def test_clips_of_a_variable_rate_start_and_end_at_the_times_of_frames(tmp_path):
    film, (cut,) = edited(20, [40, 40], [0])
    rng = np.random.default_rng(0)
    gaps = rng.choice([0.02, 0.04, 0.1], len(film))
    times = np.concatenate([[0.0], np.cumsum(gaps)[:-1]]).round(3)
    write_with_times(tmp_path / "a.mkv", film, times.tolist())
    values, clips = process(tmp_path / "a.mkv")
    assert values["variable_rate"]
    assert [clip["num_frames"] for clip in clips] == [40, 40]
    assert clips[0]["end"] == clips[1]["start"] == pytest.approx(times[cut.frame], abs=1e-6)
    assert values["fps"] == pytest.approx(len(film) / values["file_seconds"])


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_rotated_files_have_the_displayed_size(tmp_path, rotation):
    plain = tmp_path / "plain.mp4"
    write_with_times(plain, shot(1, 24), [index / 16 for index in range(24)])
    path = tmp_path / "rotated.mp4"
    with av.open(str(plain)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        stream.set_display_rotation(-rotation)
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    values, (clip,) = process(path)
    assert values["rotation"] == rotation
    assert (values["width"], values["height"]) == ((64, 96) if rotation % 180 else (96, 64))
    assert clip["num_frames"] == 24


def test_ten_bits_and_pixel_aspect(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx265", rate=16)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p10le"
        stream.options = {"x265-params": "log-level=error"}
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        for image in shot(2, 20):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    values, (clip,) = process(path)
    assert (values["codec"], values["bit_depth"]) == ("hevc", 10)
    assert (values["width"], values["height"]) == (128, 64)
    assert values["pixel_aspect"] == pytest.approx(4 / 3)
    assert clip["num_frames"] == 20


def test_interlaced_files_are_marked(tmp_path):
    path = tmp_path / "a.mpg"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg2video", rate=25)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        stream.options, stream.bit_rate = {"flags": "+ildct+ilme", "top": "1"}, 4_000_000
        for image in shot(3, 40):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    values, clips = process(path)
    assert values["interlaced"]
    assert values["file_frames"] == pytest.approx(40, abs=1)
    assert len(clips) == 1


def test_damage_in_the_middle_leaves_the_frames_before_it_and_a_row_with_the_reason(tmp_path, monkeypatch):
    from cogvideox.video import stream

    path = tmp_path / "a.mp4"
    write_with_times(path, shot(4, 48), [index / 16 for index in range(48)])
    decode = stream.frames

    def damaged(*arguments):
        for number, frame in enumerate(decode(*arguments)):
            if number == 32:
                raise UserError(f"cannot read {path}: it is damaged or not a video")
            yield frame

    monkeypatch.setattr(stream, "frames", damaged)
    values, (clip, rest) = process(path)
    assert (clip["start"], clip["end"], clip["num_frames"], clip["ends_with"]) == (0.0, 2.0, 32, "damage")
    assert (rest["start"], rest["end"]) == (2.0, values["file_seconds"])
    assert rest["end"] == pytest.approx(3.0, abs=0.04)  # the file does not say how long its last frame is shown
    assert rest["reason"] == "it cannot be decoded from here on: it is damaged or not a video"


def test_unexpected_errors_are_tried_again_and_user_errors_are_final():
    calls = []

    def fails(error: Exception, times: int):
        def compute() -> dict:
            calls.append(1)
            if len(calls) <= times:
                raise error
            return {"value": 1}

        return compute

    result = attempt("stage", "id", fails(OSError("the disk is away"), 2), 2, "a.mp4")
    assert (result.values, result.error, result.attempts) == ({"value": 1}, None, 3)
    calls.clear()
    result = attempt("stage", "id", fails(OSError("the disk is away"), 9), 2, "a.mp4")
    assert (result.error, result.attempts) == ("OSError: the disk is away", 3)
    calls.clear()
    result = attempt("stage", "id", fails(UserError("cannot read a.mp4: it is empty"), 9), 2, "a.mp4")
    assert (result.error, result.attempts) == ("it is empty", 1)
