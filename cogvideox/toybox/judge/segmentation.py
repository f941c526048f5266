"""Segmentation and tracking of the toys of a clip: connected components of pixels that differ from the floor. Used only
by `judge.full`.

Axes: `n` frames of all clips, concatenated; `b t h w` clips, frames, height, width; `p` components; `s` patch side.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import grid_sample, max_pool2d

from cogvideox.toybox.judge.background import Map, Video
from cogvideox.toybox.render.renderer import pixel_grid

FLOOR_DISTANCE = 0.11  # color distance from the floor that neither shadow nor noise reaches
AREA_RANGE = (0.007, 0.34)  # minimum and maximum area of a toy; smaller components are noise
PATCH_SIDE = 20  # pixels along a side of the normalized patch of a component
PATCH_HALF_SIDE = 1.05  # half the side of that patch, in square roots of the component's area
MAX_JUMP = 0.30  # maximum displacement of a toy between two frames, plus 0.3 times its change of color
MAX_MISSING = 0.4  # maximum fraction of the frames in which a toy is missing
MIN_COLOR = 0.30  # minimum of each color channel in the division that measures shading


@dataclass
class Blob:
    """A toy in one frame: center, area, color, and a patch of its mask and shading, normalized to a fixed size."""

    x: float
    y: float
    area: float
    color: Float[Tensor, "3"]
    patch: Float[Tensor, "2 s s"]


Track = dict[int, Blob]
"""The blobs of one toy, by frame."""


def find_toys(white: Video, floor: Video) -> tuple[list[list[Track]], Bool[Tensor, "b t h w"]]:
    """Return the tracks of the toys in every clip, and the mask of floor pixels.

    Args:
        white: the video in white light.
        floor: the same video without toys.
    """
    b, t = white.shape[:2]
    distance = (white - floor).square_().sum(dim=2).sqrt_()
    components = _connected_components(distance.flatten(0, 1) > FLOOR_DISTANCE).unflatten(0, (b, t))
    blobs, covered = _blobs(white, distance, components)
    return [_track([_without_nested(frame_blobs) for frame_blobs in clip]) for clip in blobs], ~covered


def _connected_components(mask: Bool[Tensor, "n h w"]) -> Int[Tensor, "n h w"]:
    """Label the connected components of every frame; 0 is the background."""
    _, h, w = mask.shape
    inside = mask.float()
    label = torch.arange(1, h * w + 1, dtype=torch.float32).view(1, h, w) * inside
    for _ in range(h + w):
        # Two propagation steps per comparison, because a comparison takes as long as a step.
        spread = max_pool2d(max_pool2d(label, 3, stride=1, padding=1) * inside, 3, stride=1, padding=1) * inside
        if torch.equal(spread, label):
            break
        label = spread
    return label.long()


def _blobs(white: Video, distance: Map, components: Int[Tensor, "b t h w"]) -> tuple[list[list[list[Blob]]], Tensor]:
    b, t, _, h, w = white.shape
    unit, size = min(h, w), h * w + 1
    around = max_pool2d(components.flatten(0, 1).float(), 5, stride=1, padding=2).long().view(b * t, -1)
    around = torch.where(components.view(b * t, -1) > 0, components.view(b * t, -1), around)
    label = around + size * torch.arange(b * t)[:, None]
    num_pixels = torch.bincount(
        (components.view(b * t, -1) + size * torch.arange(b * t)[:, None]).flatten(), minlength=b * t * size
    )
    num_pixels.view(b * t, size)[:, 0] = 0
    selected = ((num_pixels > AREA_RANGE[0] * unit**2) & (num_pixels < AREA_RANGE[1] * unit**2)).nonzero()[:, 0]
    index = torch.full((b * t * size,), -1, dtype=torch.long)
    index[selected] = torch.arange(len(selected))
    component = index[label]  # [n pixels], -1 on the background
    on = component >= 0
    component_on = component[on]

    def total(values: Tensor) -> Float[Tensor, " p"]:
        return torch.zeros(len(selected)).index_add_(0, component_on, values)

    distance_on = distance.view(b * t, -1)[on]
    # Typical distance of a toy's interior from the floor. The toy's edge is at half of it, with or without blur.
    strong = torch.where(distance_on > FLOOR_DISTANCE, distance_on, 0.0)
    typical = total(strong.pow(3)) / total(strong.pow(2)).clamp(min=1e-6)
    relative = distance_on / typical[component_on].clamp(min=FLOOR_DISTANCE)
    mask = ((relative - 0.3) / 0.4).clamp(0.0, 1.0)
    interior = ((relative - 0.6) / 0.2).clamp(0.0, 1.0)
    xs, ys = pixel_grid(h, w)
    x_of, y_of = (coords.expand(h, w).reshape(1, -1).expand(b * t, -1)[on] for coords in (xs, ys))
    pixels = white.permute(0, 1, 3, 4, 2).reshape(b * t, -1, 3)[on]
    area, weight = total(mask).clamp(min=1e-6), total(interior).clamp(min=1e-6)
    x, y = total(mask * x_of) / area, total(mask * y_of) / area
    color = torch.stack([total(interior * pixels[:, c]) / weight for c in range(3)], dim=-1)
    area = area / unit**2

    reference = color.clamp(min=MIN_COLOR)
    shade = (pixels * reference[component_on]).sum(dim=-1) / reference.square().sum(dim=-1)[component_on]
    planes = torch.zeros(len(selected), 2, h * w)
    where = on.nonzero()[:, 1]
    planes[component_on, 0, where] = mask
    planes[component_on, 1, where] = mask * shade
    patches = _patches(planes.view(-1, 2, h, w), x, y, area)
    blobs: list[list[list[Blob]]] = [[[] for _ in range(t)] for _ in range(b)]
    for p, frame in enumerate((selected // size).tolist()):
        blobs[frame // t][frame % t].append(Blob(float(x[p]), float(y[p]), float(area[p]), color[p], patches[p]))
    covered = max_pool2d(on.view(b * t, 1, h, w).float(), 3, stride=1, padding=1) > 0
    return blobs, covered.view(b, t, h, w)


def _patches(
    planes: Float[Tensor, "p 2 h w"], x: Float[Tensor, " p"], y: Float[Tensor, " p"], area: Float[Tensor, " p"]
) -> Float[Tensor, "p 2 s s"]:
    """Crop mask and shading of every component around its center, scaled by its area."""
    h, w = planes.shape[-2:]
    unit = min(h, w)
    steps = (torch.arange(PATCH_SIDE) + 0.5) / PATCH_SIDE * 2.0 - 1.0
    half = PATCH_HALF_SIDE * area.sqrt()[:, None]
    columns = (x[:, None] + half * steps) * (2.0 * unit / w)
    rows = (y[:, None] + half * steps) * (2.0 * unit / h)
    grid = torch.stack(
        [columns[:, None, :].expand(-1, PATCH_SIDE, -1), rows[:, :, None].expand(-1, -1, PATCH_SIDE)], dim=-1
    )
    return grid_sample(planes, grid, align_corners=False)


def _without_nested(blobs: list[Blob]) -> list[Blob]:
    """Drop blobs inside other blobs. Toys do not overlap, so a nested blob is part of the outer toy (a highlight)."""

    def inside(a: Blob, b: Blob) -> bool:
        return a.area < b.area and math.hypot(a.x - b.x, a.y - b.y) ** 2 < 0.6 * b.area / math.pi

    return [blob for blob in blobs if not any(inside(blob, other) for other in blobs)]


def _track(frames: list[list[Blob]]) -> list[Track]:
    """Link blobs of successive frames greedily by position and color, and drop short tracks."""
    tracks: list[Track] = []
    for frame, blobs in enumerate(frames):
        pairs = []
        for i, track in enumerate(tracks):
            last = track[max(track)]
            for j, blob in enumerate(blobs):
                cost = math.hypot(blob.x - last.x, blob.y - last.y) + 0.3 * float((blob.color - last.color).norm())
                pairs.append((cost, i, j))
        linked_tracks, linked_blobs = set(), set()
        for cost, i, j in sorted(pairs):
            if cost < MAX_JUMP and i not in linked_tracks and j not in linked_blobs:
                tracks[i][frame] = blobs[j]
                linked_tracks.add(i)
                linked_blobs.add(j)
        tracks += [{frame: blob} for j, blob in enumerate(blobs) if j not in linked_blobs]
    return [track for track in tracks if len(track) >= (1.0 - MAX_MISSING) * len(frames)]
