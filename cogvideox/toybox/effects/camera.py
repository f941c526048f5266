"""Textured canvases, and a camera that pans over an image or a clip along a known path.

Axes: `t` frames, `h w` pixels of the output, `y x` pixels of the canvas, `c` RGB.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, UInt8
from torch.nn import functional


@dataclass(frozen=True)
class CameraPath:
    """Position of the camera at each frame.

    Attributes:
        shift: displacement of the image center over the canvas to the right and down, in output pixels, `t 2`.
        zoom: magnification, `t`.
        angle: rotation in radians, clockwise, `t`.
    """

    shift: Float64[np.ndarray, "t 2"]
    zoom: Float64[np.ndarray, " t"]
    angle: Float64[np.ndarray, " t"]

    def __add__(self, other: "CameraPath") -> "CameraPath":
        """Combine two paths, such as a pan with shake."""
        return CameraPath(self.shift + other.shift, self.zoom * other.zoom, self.angle + other.angle)

    @property
    def num_frames(self) -> int:
        return len(self.shift)


def pan(num_frames: int, velocity: tuple[float, float]) -> CameraPath:
    """Move the camera by `velocity` pixels per frame (right, down)."""
    steps = np.arange(num_frames, dtype=np.float64)[:, None]
    return CameraPath(steps * np.asarray(velocity, np.float64), np.ones(num_frames), np.zeros(num_frames))


def zoom(num_frames: int, rate: float) -> CameraPath:
    """Zoom in by the factor `1 + rate` per frame."""
    factor = (1.0 + rate) ** np.arange(num_frames, dtype=np.float64)
    return CameraPath(np.zeros((num_frames, 2)), factor, np.zeros(num_frames))


def shake(num_frames: int, amplitude: float, seed: int, fps: float = 24.0, frequency: float = 3.0) -> CameraPath:
    """Shake the camera like a hand: a random path without low frequencies.

    Args:
        amplitude: root mean square of the displacement along each axis, in pixels.
        frequency: mean of the Gaussian spectrum, in Hz.
    """
    rng = np.random.default_rng(seed)
    length = max(num_frames, int(4 * fps))
    bins = np.fft.rfftfreq(length, 1.0 / fps)
    gain = np.exp(-0.5 * ((bins - frequency) / (0.25 * frequency)) ** 2) * (bins > 0)
    noise = rng.normal(size=(length, 3))
    path = np.fft.irfft(np.fft.rfft(noise, axis=0) * gain[:, None], length, axis=0)
    path = (path / path.std(axis=0))[:num_frames]
    return CameraPath(path[:, :2] * amplitude, np.ones(num_frames), path[:, 2] * amplitude * 1e-3)


def film(
    canvas: UInt8[np.ndarray, "y x c"] | UInt8[np.ndarray, "t y x c"], path: CameraPath, size: tuple[int, int]
) -> UInt8[np.ndarray, "t h w c"]:
    """Film a canvas (one image, or a clip of one frame per position) with a moving camera.

    Args:
        size: height and width of the output. Outside the canvas, the canvas is mirrored.
    """
    height, width = size
    frames = torch.from_numpy(np.ascontiguousarray(canvas))
    frames = frames.expand(path.num_frames, *frames.shape) if frames.ndim == 3 else frames
    rows, columns = frames.shape[1:3]
    y = torch.arange(height, dtype=torch.float64) - (height - 1) / 2
    x = torch.arange(width, dtype=torch.float64) - (width - 1) / 2
    output = np.empty((path.num_frames, height, width, 3), np.uint8)
    for index in range(path.num_frames):
        cos, sin = np.cos(path.angle[index]), np.sin(path.angle[index])
        at_x = (x[None, :] * cos - y[:, None] * sin) / path.zoom[index] + path.shift[index, 0]
        at_y = (x[None, :] * sin + y[:, None] * cos) / path.zoom[index] + path.shift[index, 1]
        grid = torch.stack([at_x * 2 / columns, at_y * 2 / rows], -1).float()
        image = frames[index].permute(2, 0, 1).float()[None]
        filmed = functional.grid_sample(image, grid[None], padding_mode="reflection", align_corners=False)
        output[index] = filmed[0].permute(1, 2, 0).round().clamp(0, 255).byte().numpy()
    return output


def flow_of(path: CameraPath, size: tuple[int, int]) -> Float64[np.ndarray, "pairs h w 2"]:
    """Return the exact optical flow (right, down, in pixels per frame) of a still canvas filmed along a path."""
    height, width = size
    y, x = np.mgrid[:height, :width].astype(np.float64)
    y, x = y - (height - 1) / 2, x - (width - 1) / 2
    flow = np.empty((path.num_frames - 1, height, width, 2))
    for index in range(path.num_frames - 1):
        canvas = _rotate(x, y, path.angle[index]) / path.zoom[index] + path.shift[index]
        moved = (canvas - path.shift[index + 1]) * path.zoom[index + 1]
        moved = _rotate(moved[..., 0], moved[..., 1], -path.angle[index + 1])
        flow[index] = moved - np.stack([x, y], -1)
    return flow


def _rotate(x: np.ndarray, y: np.ndarray, angle: float) -> np.ndarray:
    return np.stack([x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)], -1)


def texture(seed: int, size: tuple[int, int], roughness: float = 1.2) -> UInt8[np.ndarray, "y x c"]:
    """Return a random color image with the spectrum of natural images.

    Args:
        size: height and width.
        roughness: exponent of the decay of the amplitude with frequency; about 1 for natural images.
    """
    rng = np.random.default_rng(seed)
    frequencies = np.hypot(np.fft.fftfreq(size[0])[:, None], np.fft.rfftfreq(size[1])[None, :])
    amplitude = np.maximum(frequencies, 1.0 / max(size)) ** -roughness
    amplitude[0, 0] = 0.0
    planes = [np.fft.irfft2(np.fft.rfft2(rng.normal(size=size)) * amplitude, size) for _ in range(3)]
    gray, *tints = (plane / plane.std() for plane in planes)
    weights = rng.normal(size=(3, 2)) * 0.3
    base = rng.uniform(80, 170, 3)
    image = base + 45.0 * (gray[..., None] + np.stack(tints, -1) @ weights.T)
    return image.round().clip(0, 255).astype(np.uint8)
