"""Reading of background, light, pattern and camera of a full-grammar scene from pixels. Used only by `judge.full`.

- background and light: the pair of background and light with the closest color; shadows and toys cover too few pixels
  to matter.
- pattern: the waves of each pattern (`floor_patterns.WAVES`) are correlated with the floor's brightness, after the
  light's falloff, the toys and the mean are removed. The pattern whose weakest wave is strongest is chosen.
- camera: a zoom stretches the waves, and a pan shifts their phases.

Axes: `b t c h w` clips, frames, colors, height, width; `s` stretches; `k` waves.
"""

import functools
import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor

from cogvideox.toybox.render.floor_patterns import CELL_ASPECT, PERIODS, WAVES, frequencies, shades
from cogvideox.toybox.render.lighting import LIGHTS
from cogvideox.toybox.render.renderer import pixel_grid
from cogvideox.toybox.scenes.grammar import BACKGROUND_COLORS, FULL

Video = Float[Tensor, "b t 3 h w"]
Map = Float[Tensor, "b t h w"]

MAX_PIXEL_DISTANCE = 0.15  # color distances are clipped here; pixels beyond it are not floor
MAX_MEAN_DISTANCE = 0.10  # mean color distance above which no background of the grammar is recognized
MIN_BRIGHTNESS = 0.28  # minimum fraction of a floor's color under shadow, pattern and falloff together
MAX_BRIGHTNESS = 1.12
MAX_BRIGHTNESS_BLACK = 3.7
STRETCHES = tuple(1.0 + 0.05 * i for i in range(11))
WAVE_STRENGTH = {"checkered": 0.40, "striped": 0.60, "dotted": 0.26}
"""Amplitude of a pattern's waves, as a fraction of the difference between its two brightness levels."""
MIN_STRENGTH = 0.5  # fraction of that amplitude above which a pattern counts as present
MIN_PAN = 0.11
MIN_ZOOM = 1.17
MAX_SLANT = 0.5  # maximum ratio of the smaller to the larger shift along the axes; above it, a pan has no direction


@dataclass(frozen=True)
class SceneFacts:
    """Observed background, pattern, camera and light, each None if it cannot be read.

    Attributes:
        shift: displacement of the image since frame 0.
        zoom: magnification since frame 0.
    """

    background: str | None
    pattern: str | None
    camera: str | None
    light: str | None
    shift: Float[Tensor, "t 2"]
    zoom: Float[Tensor, " t"]


def white_balance(video: Video) -> tuple[Video, Map, list[tuple[str, str] | None]]:
    """Return the video in white light, the floor's brightness, and the background and light of each clip.

    The brightness is a multiple of the floor's color, clipped to what light, shadow and pattern can produce. Background
    and light are None if no background of the grammar is recognized.
    """
    kinds, colors, lit_floors = _lit_floors(video.shape[-2], video.shape[-1])
    frames = sorted({0, video.shape[1] // 2, video.shape[1] - 1})
    sampled = video[:, frames][..., ::2, ::2]
    distances = torch.stack(
        [_distance(sampled, color, lit[::2, ::2], kind[0]) for kind, color, lit in zip(kinds, colors, lit_floors)]
    )
    best = distances.min(dim=0)
    chosen = [kinds[int(i)] for i in best.indices]
    recognized = [kind if ok else None for kind, ok in zip(chosen, (best.values < MAX_MEAN_DISTANCE).tolist())]
    tint = torch.tensor([LIGHTS[light].tint for _, light in chosen]).view(-1, 1, 3, 1, 1)
    color = torch.tensor([BACKGROUND_COLORS[name] for name, _ in chosen]).view(-1, 1, 3, 1, 1)
    white = video / tint
    brightness = (white * color).sum(dim=2) / color.square().sum(dim=2)
    maxima = torch.tensor([MAX_BRIGHTNESS_BLACK if name == "black" else MAX_BRIGHTNESS for name, _ in chosen])
    return white, torch.minimum(brightness.clamp_(min=MIN_BRIGHTNESS), maxima.view(-1, 1, 1, 1)), recognized


def read_scene_facts(
    brightness: Map, is_floor: Bool[Tensor, "b t h w"], recognized: list[tuple[str, str] | None]
) -> list[SceneFacts]:
    """Read the facts of each scene from its floor.

    Args:
        brightness: the floor's brightness, from `white_balance`.
        is_floor: mask of the pixels that no toy covers.
        recognized: the background and light of each clip, from `white_balance`.
    """
    h, w = brightness.shape[-2:]
    kinds = [kind or ("gray", "day") for kind in recognized]
    lit_floors = torch.stack([_lit_floor(name, h, w) for _, name in kinds])[:, None]
    steps = torch.tensor([abs(shades(name)[1] - 1.0) for name, _ in kinds]).view(-1, 1, 1, 1)
    # The floor's base level becomes 0 and the pattern's other level -1 (on black 1). Darker pixels are shadows and are
    # clipped.
    darkest = torch.tensor([0.0 if name == "black" else -1.0 for name, _ in kinds]).view(-1, 1, 1, 1)
    flat = (brightness / lit_floors - 1.0) / steps
    flat = flat.clamp(min=darkest - 0.15, max=darkest + 1.15)
    count = is_floor.sum(dim=(2, 3), keepdim=True).clamp(min=1)
    flat = (flat - (flat * is_floor).sum(dim=(2, 3), keepdim=True) / count) * is_floor
    waves = {name: _waves(flat / count, name) for name in WAVES}
    strengths = torch.stack([(2.0 * waves[name].abs()).amin(dim=-1) / WAVE_STRENGTH[name] for name in WAVES], dim=2)
    by_pattern = strengths.amax(dim=-1).median(dim=1).values  # [b patterns]
    readings = []
    for i, kind in enumerate(recognized):
        index = int(by_pattern[i].argmax())
        pattern = tuple(WAVES)[index] if by_pattern[i, index] > MIN_STRENGTH else "plain"
        camera, shift, zoom = "still", torch.zeros(brightness.shape[1], 2), torch.ones(brightness.shape[1])
        if pattern != "plain":
            camera, shift, zoom = _camera(waves[pattern][i], strengths[i, :, index], pattern)
        background, light = kind or (None, None)
        observed_camera = camera if brightness.shape[1] > 1 else None
        readings.append(SceneFacts(background, pattern if kind else None, observed_camera, light, shift, zoom))
    return readings


def _camera(
    waves: Complex[Tensor, "t s k"], strength: Float[Tensor, "t s"], pattern: str
) -> tuple[str | None, Float[Tensor, "t 2"], Float[Tensor, " t"]]:
    stretch = torch.tensor(STRETCHES)[strength.argmax(dim=1)]
    t = len(stretch)
    still = torch.zeros(t, 2), torch.ones(t)
    first, last = stretch[:2].mean(), stretch[-2:].mean()
    ratio = float(last / first)
    # Averaging two frames at each end reduces the ratio of a short clip, which is corrected here.
    if max(ratio, 1.0 / ratio) > MIN_ZOOM:
        corrected = ratio ** ((t - 1) / max(t - 2, 1))
        zoom = corrected ** torch.linspace(0.0, 1.0, t)
        return ("zoom in" if ratio > 1.0 else "zoom out"), torch.zeros(t, 2), zoom
    if len(WAVES[pattern]) < 2:
        return "still", *still
    waves = waves[:, 0]
    phase_change = (waves[1:] * waves[:-1].conj()).angle() / (-2.0 * math.pi)
    steps = torch.linalg.solve(frequencies(pattern), phase_change[..., None])[..., 0]
    shift = torch.cat([torch.zeros(1, 2), steps.cumsum(dim=0)])
    total = shift[-1]
    main = int(total.abs().argmax())
    if float(total.abs().max()) < MIN_PAN:
        return "still", *still
    if float(total[1 - main].abs() / total[main].abs()) > MAX_SLANT:
        return None, shift, torch.ones(t)
    # The image moves opposite to the camera.
    return (("pan right", "pan left"), ("pan down", "pan up"))[main][int(total[main] > 0)], shift, torch.ones(t)


def _distance(
    pixels: Video, color: Float[Tensor, "3"], lit_floor: Float[Tensor, "h w"], background: str
) -> Float[Tensor, " b"]:
    """Return the mean color distance between pixels and a lit and patterned floor.

    The distance of each pixel is clipped at `MAX_PIXEL_DISTANCE`.
    """
    floor = color.view(3, 1, 1) * lit_floor
    low, high = sorted(shades(background))
    level = ((pixels * floor).sum(dim=2) / floor.square().sum(dim=0)).clamp_(low, high)
    distance = (pixels - level[:, :, None] * floor).square_().sum(dim=2).sqrt_()
    return distance.clamp_(max=MAX_PIXEL_DISTANCE).mean(dim=(1, 2, 3))


@functools.cache
def _lit_floors(h: int, w: int) -> tuple[list[tuple[str, str]], Float[Tensor, "m 3"], Float[Tensor, "m h w"]]:
    kinds = [(name, light) for light in FULL.lights for name in FULL.backgrounds]
    colors = [torch.tensor(BACKGROUND_COLORS[name]) * torch.tensor(LIGHTS[light].tint) for name, light in kinds]
    return kinds, torch.stack(colors), torch.stack([_lit_floor(light, h, w) for _, light in kinds])


@functools.cache
def _lit_floor(light: str, h: int, w: int) -> Float[Tensor, "h w"]:
    return LIGHTS[light].floor_brightness(*pixel_grid(h, w))


def _waves(flat: Map, pattern: str) -> Complex[Tensor, "b t s k"]:
    b, t, h, w = flat.shape
    real, imaginary = _basis(pattern, h, w)
    pixels = flat.reshape(b * t, h * w)
    return torch.complex(pixels @ real, pixels @ imaginary).view(b, t, len(STRETCHES), -1)


@functools.cache
def _basis(pattern: str, h: int, w: int) -> tuple[Float[Tensor, "pixels waves"], Float[Tensor, "pixels waves"]]:
    xs, ys = pixel_grid(h, w)
    angles = []
    for stretch in STRETCHES:
        for across, along in WAVES[pattern]:
            period = PERIODS[pattern] * stretch
            angles.append(2.0 * math.pi * (across * xs / period + along * ys / (period * CELL_ASPECT)))
    angle = torch.stack(angles).flatten(1).T
    return angle.cos().contiguous(), -angle.sin().contiguous()
