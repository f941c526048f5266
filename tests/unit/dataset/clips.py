"""Helpers that write small videos and images with captions, and unusable files."""

from pathlib import Path

import numpy as np

from cogvideox.video import io


def pixels(num_frames: int, height: int = 32, width: int = 48, seed: int = 0) -> np.ndarray:
    """Moving gradients: every frame is different, and codecs preserve them well."""
    y, x, t = np.meshgrid(np.arange(height), np.arange(width), np.arange(num_frames), indexing="ij")
    value = 100 + 60 * np.sin((x + 3 * t + 7 * seed) / 9) + 40 * np.cos((y + t) / 7)
    return np.stack([value, 255 - value, value / 2 + 30 * (seed % 3)], -1).astype(np.uint8).transpose(2, 0, 1, 3)


def video(path: Path, caption: str | None = "a ball", *, num_frames: int = 9, fps: float = 8.0, seed: int = 0) -> Path:
    """Write a 48x32 video with its caption beside it."""
    io.write(path, pixels(num_frames, seed=seed), fps)
    return _captioned(path, caption)


def image(path: Path, caption: str | None = "a cube", *, size: tuple[int, int] = (32, 48), seed: int = 5) -> Path:
    """Write an image with its caption beside it."""
    io.write(path, pixels(1, *size, seed=seed), 1.0)
    return _captioned(path, caption)


def write_unusable(folder: Path) -> dict[str, str]:
    """Write unusable files, most with captions, and return part of the expected reason by file name."""
    video_bytes = video(folder / "whole.mp4", num_frames=17).read_bytes()
    (folder / "whole.mp4").unlink()
    (folder / "whole.txt").unlink()
    for name, content in {
        "begun.mp4": video_bytes[:300],
        "half.mp4": video_bytes[: len(video_bytes) * 6 // 10],
        "nothing.mp4": b"",
        "text.mp4": b"not a video\n" * 50,
    }.items():
        (folder / name).write_bytes(content)
        (folder / name).with_suffix(".txt").write_text("a ball")
    io.write(folder / "tiny.mp4", np.zeros((9, 1, 1, 3), np.uint8), 8.0)
    _captioned(folder / "tiny.mp4", "a ball")
    video(folder / "slow.mp4", fps=3.0)
    video(folder / "blank_caption.mp4", "  \n")
    video(folder / "no_caption.mp4", None)
    video(folder / "short.mp4", num_frames=3)
    return {
        "begun.mp4": "it contains no video",
        "half.mp4": "truncated",
        "nothing.mp4": "it is empty",
        "text.mp4": "damaged or not a video",
        "tiny.mp4": "it is too small",
        "slow.mp4": "its frame rate of 3 fps is too low",
        "blank_caption.mp4": "its caption is empty",
        "no_caption.mp4": "it has no caption",
        "short.mp4": "it is too short: 3 frames",
    }


def _captioned(path: Path, caption: str | None) -> Path:
    if caption is not None:
        path.with_suffix(".txt").write_text(caption, encoding="utf-8")
    return path
