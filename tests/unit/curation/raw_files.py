"""A small folder of raw files of every kind, made by the effects of the toybox and by PyAV."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from cogvideox.toybox.effects import camera, transitions
from cogvideox.video import io

SIZE, FPS = (64, 96), 16.0


def shot(seed: int, num_frames: int, velocity: tuple[float, float] = (1.0, 0.4)) -> np.ndarray:
    canvas = camera.texture(seed, (160, 240))
    return camera.film(canvas, camera.pan(num_frames, velocity), SIZE)


def edited(seed: int, lengths: list[int], mixed: list[int]) -> tuple[np.ndarray, list[transitions.Transition]]:
    velocities = [(1.0, 0.4), (-0.8, 0.0), (0.0, 0.9), (0.5, -0.5)]
    shots = [shot(seed + index, length, velocities[index % 4]) for index, length in enumerate(lengths)]
    return transitions.join(shots, mixed)


def write_with_times(path: Path, frames: np.ndarray, times: list[float], **stream_options) -> None:
    """Write frames at the given times in seconds (rounded to milliseconds), for a variable frame rate."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], stream_options.get("pix_fmt", "yuv420p")
        stream.codec_context.time_base = Fraction(1, 1000)
        stream.options = {"crf": "15", **stream_options.get("options", {})}
        for image, time in zip(frames, times):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = round(1000 * time), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def write_audio(path: Path) -> None:
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def make_raw(folder: Path) -> Path:
    """Write the folder. See the names of the files for what they are."""
    folder.mkdir(parents=True)
    film, _ = edited(10, [32, 40, 30], [0, 8])
    io.write(folder / "edited.mp4", film, FPS)
    single_shot = shot(1, 32)
    io.write(folder / "one.mp4", single_shot, FPS)
    (folder / "one.txt").write_text("a texture that moves\n")
    (folder / "other.mp4").write_bytes((folder / "one.mp4").read_bytes())
    io.write(folder / "small.mp4", single_shot[:, ::2, ::2], FPS)
    io.write(folder / "short.mp4", shot(2, 8), FPS)
    (folder / "empty.mp4").touch()
    (folder / "letter.mp4").write_text("Dear reader,\n" * 50)
    io.write(folder / "long.mp4", shot(3, 60), FPS)
    (folder / "truncated.mp4").write_bytes((folder / "long.mp4").read_bytes()[:-2000])
    write_audio(folder / "sound.mp4")
    deeper = folder / "deeper"
    deeper.mkdir()
    Image.fromarray(shot(4, 1)[0]).save(deeper / "photo.png")
    (deeper / "notes.pdf").write_bytes(b"%PDF")
    return folder
