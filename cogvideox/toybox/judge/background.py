"""Reads a scene of the full grammar without its toys: floor, light, pattern and camera.

- background and light: of all floors in all lights, the one whose pixels, in their own place, are nearest to those
  seen; shadows and toys are the few that fit none.
- pattern: the waves that each pattern is known by (`floor.WAVES`) are looked for in the brightness of what is left
  when the light's fall, the toys and the mean are taken away; the pattern whose weakest wave is strongest wins.
- camera: a zoom stretches the waves, and a pan moves them along, which shows in their phases.

Axes: `b t c h w` clips, frames, colours, height, width; `s` stretches; `k` waves.
"""

import functools
import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor

from cogvideox.toybox.render.floor_patterns import FLATTENED, PERIODS, WAVES, frequencies, shades
from cogvideox.toybox.render.lighting import LAMPS
from cogvideox.toybox.render.render import grid
from cogvideox.toybox.scenes.grammar import BACKGROUND_COLORS, FULL

Video = Float[Tensor, "b t 3 h w"]
Map = Float[Tensor, "b t h w"]

FITS = 0.15  # colour distance from which on a pixel is no floor at all
FOREIGN = 0.10  # mean distance above which no floor of the grammar is seen
DARKEST = 0.28  # what shadow, shade and the lamp's fall together leave of a floor's colour
BRIGHTEST = 1.12
BRIGHTEST_BLACK = 3.7
STRETCHES = tuple(1.0 + 0.05 * i for i in range(11))
STRENGTH = {"checkered": 0.40, "striped": 0.60, "dotted": 0.26}
"""How strong a pattern's waves are, as a share of the step between its two shades."""
SEEN = 0.5  # share of that strength that makes a pattern
LEAST_PAN = 0.11
LEAST_ZOOM = 1.17
SLANT = 0.5  # greatest ratio of the ways along the two axes for a pan to have a direction


@dataclass(frozen=True)
class Ground:
    """Floor, light and camera as seen. `shift` and `zoom`: how the picture has moved and grown since frame 0."""

    background: str | None
    pattern: str | None
    camera: str | None
    light: str | None
    shift: Float[Tensor, "t 2"]
    zoom: Float[Tensor, " t"]


def balance(video: Video) -> tuple[Video, Map, list[tuple[str, str] | None]]:
    """The video in white light, the floor's brightness in it, and the background and light of each clip.

    The brightness is a multiple of the colour of the floor, kept to what light, shadow and pattern can make of it.
    None: nothing like a floor is seen.
    """
    kinds, colors, shines = _floors(video.shape[-2], video.shape[-1])
    frames = sorted({0, video.shape[1] // 2, video.shape[1] - 1})
    seen = video[:, frames][..., ::2, ::2]
    misfits = torch.stack(
        [_misfit(seen, color, shine[::2, ::2], kind[0]) for kind, color, shine in zip(kinds, colors, shines)]
    )
    best = misfits.min(dim=0)
    chosen = [kinds[int(i)] for i in best.indices]
    found = [kind if ok else None for kind, ok in zip(chosen, (best.values < FOREIGN).tolist())]
    tint = torch.tensor([LAMPS[light].tint for _, light in chosen]).view(-1, 1, 3, 1, 1)
    color = torch.tensor([BACKGROUND_COLORS[name] for name, _ in chosen]).view(-1, 1, 3, 1, 1)
    white = video / tint
    light = (white * color).sum(dim=2) / color.square().sum(dim=2)
    most = torch.tensor([BRIGHTEST_BLACK if name == "black" else BRIGHTEST for name, _ in chosen]).view(-1, 1, 1, 1)
    return white, torch.minimum(light.clamp_(min=DARKEST), most), found


def read_ground(light: Map, bare: Bool[Tensor, "b t h w"], found: list[tuple[str, str] | None]) -> list[Ground]:
    """Names floor, light, pattern and camera, from the floor's brightness where it is `bare` of toys."""
    h, w = light.shape[-2:]
    kinds = [kind or ("gray", "day") for kind in found]
    shines = torch.stack([_shine(name, h, w) for _, name in kinds])[:, None]
    steps = torch.tensor([abs(shades(name)[1] - 1.0) for name, _ in kinds]).view(-1, 1, 1, 1)
    # The floor's own shade is 0, a pattern's other one -1 (on black 1); what is darker is a shadow, and says no more.
    darkest = torch.tensor([0.0 if name == "black" else -1.0 for name, _ in kinds]).view(-1, 1, 1, 1)
    flat = (light / shines - 1.0) / steps
    flat = flat.clamp(min=darkest - 0.15, max=darkest + 1.15)
    count = bare.sum(dim=(2, 3), keepdim=True).clamp(min=1)
    flat = (flat - (flat * bare).sum(dim=(2, 3), keepdim=True) / count) * bare
    waves = {name: _waves(flat / count, name) for name in WAVES}
    strengths = torch.stack([(2.0 * waves[name].abs()).amin(dim=-1) / STRENGTH[name] for name in WAVES], dim=2)
    by_pattern = strengths.amax(dim=-1).median(dim=1).values  # [b patterns]
    grounds = []
    for i, kind in enumerate(found):
        index = int(by_pattern[i].argmax())
        pattern = tuple(WAVES)[index] if by_pattern[i, index] > SEEN else "plain"
        camera, shift, zoom = "still", torch.zeros(light.shape[1], 2), torch.ones(light.shape[1])
        if pattern != "plain":
            camera, shift, zoom = _camera(waves[pattern][i], strengths[i, :, index], pattern)
        background, lamp = kind or (None, None)
        seen = camera if light.shape[1] > 1 else None
        grounds.append(Ground(background, pattern if kind else None, seen, lamp, shift, zoom))
    return grounds


def _camera(
    waves: Complex[Tensor, "t s k"], strength: Float[Tensor, "t s"], pattern: str
) -> tuple[str | None, Float[Tensor, "t 2"], Float[Tensor, " t"]]:
    stretch = torch.tensor(STRETCHES)[strength.argmax(dim=1)]
    t = len(stretch)
    still = torch.zeros(t, 2), torch.ones(t)
    first, last = stretch[:2].mean(), stretch[-2:].mean()
    ratio = float(last / first)
    # Two frames are averaged at either end, which takes a little off the ratio of a short clip.
    if max(ratio, 1.0 / ratio) > LEAST_ZOOM:
        even = ratio ** ((t - 1) / max(t - 2, 1))
        zoom = even ** torch.linspace(0.0, 1.0, t)
        return ("zoom in" if ratio > 1.0 else "zoom out"), torch.zeros(t, 2), zoom
    if len(WAVES[pattern]) < 2:
        return "still", *still
    waves = waves[:, 0]
    turned = (waves[1:] * waves[:-1].conj()).angle() / (-2.0 * math.pi)
    steps = torch.linalg.solve(frequencies(pattern), turned[..., None])[..., 0]
    shift = torch.cat([torch.zeros(1, 2), steps.cumsum(dim=0)])
    way = shift[-1]
    main = int(way.abs().argmax())
    if float(way.abs().max()) < LEAST_PAN:
        return "still", *still
    if float(way[1 - main].abs() / way[main].abs()) > SLANT:
        return None, shift, torch.ones(t)
    # The picture goes where the camera does not.
    return (("pan right", "pan left"), ("pan down", "pan up"))[main][int(way[main] > 0)], shift, torch.ones(t)


def _misfit(
    seen: Video, color: Float[Tensor, "3"], shine: Float[Tensor, "h w"], background: str
) -> Float[Tensor, " b"]:
    """Mean distance of pixels from a floor, lit and patterned, each at most `FITS`."""
    wide = color.view(3, 1, 1) * shine
    low, high = sorted(shades(background))
    share = ((seen * wide).sum(dim=2) / wide.square().sum(dim=0)).clamp_(low, high)
    distance = (seen - share[:, :, None] * wide).square_().sum(dim=2).sqrt_()
    return distance.clamp_(max=FITS).mean(dim=(1, 2, 3))


@functools.cache
def _floors(h: int, w: int) -> tuple[list[tuple[str, str]], Float[Tensor, "m 3"], Float[Tensor, "m h w"]]:
    kinds = [(name, light) for light in FULL.lights for name in FULL.backgrounds]
    colors = [torch.tensor(BACKGROUND_COLORS[name]) * torch.tensor(LAMPS[light].tint) for name, light in kinds]
    return kinds, torch.stack(colors), torch.stack([_shine(light, h, w) for _, light in kinds])


@functools.cache
def _shine(light: str, h: int, w: int) -> Float[Tensor, "h w"]:
    return LAMPS[light].shine(*grid(h, w))


def _waves(flat: Map, pattern: str) -> Complex[Tensor, "b t s k"]:
    b, t, h, w = flat.shape
    real, imaginary = _basis(pattern, h, w)
    pixels = flat.reshape(b * t, h * w)
    return torch.complex(pixels @ real, pixels @ imaginary).view(b, t, len(STRETCHES), -1)


@functools.cache
def _basis(pattern: str, h: int, w: int) -> tuple[Float[Tensor, "pixels waves"], Float[Tensor, "pixels waves"]]:
    xs, ys = grid(h, w)
    angles = []
    for stretch in STRETCHES:
        for across, along in WAVES[pattern]:
            period = PERIODS[pattern] * stretch
            angles.append(2.0 * math.pi * (across * xs / period + along * ys / (period * FLATTENED)))
    angle = torch.stack(angles).flatten(1).T
    return angle.cos().contiguous(), -angle.sin().contiguous()
