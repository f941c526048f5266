"""Finds the toys of a clip: what no light makes of the floor, in connected pieces, followed from frame to frame.

Axes: `n` frames of all clips in a row, `b t h w` clips, frames, height, width; `p` pieces; `s` side of a patch.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import grid_sample, max_pool2d

from cogvideox.toybox.judge.background import Map, Video
from cogvideox.toybox.render.render import grid

FAR_FROM_FLOOR = 0.11  # colour distance that neither shadow nor noise reaches
AREA = (0.007, 0.34)  # smaller pieces are dirt, larger ones no toy
PATCH = 20  # pixels along a side of the normalised picture of a piece
PATCH_REACH = 1.05  # half the side of that picture, in roots of the piece's area
NEAR = 0.30  # how far a toy may seem to jump between two frames, a change of colour counted as a jump
LONGEST_GAP = 0.4  # share of the frames that a toy may be missing from
DIM = 0.30  # colours darker than this have their shade measured as if they were as bright


@dataclass
class Blob:
    """A toy in one frame: where it is, how large, of what colour, and its picture brought to one size."""

    x: float
    y: float
    area: float
    color: Float[Tensor, "3"]
    patch: Float[Tensor, "2 s s"]


Track = dict[int, Blob]
"""One toy, by frame."""


def find_toys(white: Video, floor: Video) -> tuple[list[list[Track]], Bool[Tensor, "b t h w"]]:
    """The toys of every clip, and where it shows nothing but floor.

    `white` is the video in white light, `floor` what it would show without toys.
    """
    b, t = white.shape[:2]
    away = (white - floor).square_().sum(dim=2).sqrt_()
    pieces = _pieces(away.flatten(0, 1) > FAR_FROM_FLOOR).unflatten(0, (b, t))
    blobs, covered = _blobs(white, away, pieces)
    return [_follow([_outer(found) for found in frames]) for frames in blobs], ~covered


def _pieces(mask: Bool[Tensor, "n h w"]) -> Int[Tensor, "n h w"]:
    """Numbers the connected pieces of every frame: the same number on one piece, 0 off all of them."""
    _, h, w = mask.shape
    inside = mask.float()
    label = torch.arange(1, h * w + 1, dtype=torch.float32).view(1, h, w) * inside
    for _ in range(h + w):
        # Two steps of spreading between comparisons, which cost as much.
        spread = max_pool2d(max_pool2d(label, 3, stride=1, padding=1) * inside, 3, stride=1, padding=1) * inside
        if torch.equal(spread, label):
            break
        label = spread
    return label.long()


def _blobs(white: Video, away: Map, pieces: Int[Tensor, "b t h w"]) -> tuple[list[list[list[Blob]]], Tensor]:
    b, t, _, h, w = white.shape
    unit, size = min(h, w), h * w + 1
    around = max_pool2d(pieces.flatten(0, 1).float(), 5, stride=1, padding=2).long().view(b * t, -1)
    around = torch.where(pieces.view(b * t, -1) > 0, pieces.view(b * t, -1), around)
    number = around + size * torch.arange(b * t)[:, None]
    rough = torch.bincount(
        (pieces.view(b * t, -1) + size * torch.arange(b * t)[:, None]).flatten(), minlength=b * t * size
    )
    rough.view(b * t, size)[:, 0] = 0
    kept = ((rough > AREA[0] * unit**2) & (rough < AREA[1] * unit**2)).nonzero()[:, 0]
    index = torch.full((b * t * size,), -1, dtype=torch.long)
    index[kept] = torch.arange(len(kept))
    piece = index[number]  # [n pixels], -1 off all pieces
    on = piece >= 0
    which = piece[on]

    def total(values: Tensor) -> Float[Tensor, " p"]:
        return torch.zeros(len(kept)).index_add_(0, which, values)

    far = away.view(b * t, -1)[on]
    # How far the middle of a toy is from the floor; half of it is where its edge runs, blurred or not.
    strong = torch.where(far > FAR_FROM_FLOOR, far, 0.0)
    typical = total(strong.pow(3)) / total(strong.pow(2)).clamp(min=1e-6)
    share = far / typical[which].clamp(min=FAR_FROM_FLOOR)
    mask = ((share - 0.3) / 0.4).clamp(0.0, 1.0)
    core = ((share - 0.6) / 0.2).clamp(0.0, 1.0)
    xs, ys = grid(h, w)
    x_of, y_of = (place.expand(h, w).reshape(1, -1).expand(b * t, -1)[on] for place in (xs, ys))
    pixels = white.permute(0, 1, 3, 4, 2).reshape(b * t, -1, 3)[on]
    area, weight = total(mask).clamp(min=1e-6), total(core).clamp(min=1e-6)
    x, y = total(mask * x_of) / area, total(mask * y_of) / area
    color = torch.stack([total(core * pixels[:, c]) / weight for c in range(3)], dim=-1)
    area = area / unit**2

    known = color.clamp(min=DIM)
    shade = (pixels * known[which]).sum(dim=-1) / known.square().sum(dim=-1)[which]
    planes = torch.zeros(len(kept), 2, h * w)
    where = on.nonzero()[:, 1]
    planes[which, 0, where] = mask
    planes[which, 1, where] = mask * shade
    patches = _patches(planes.view(-1, 2, h, w), x, y, area)
    blobs: list[list[list[Blob]]] = [[[] for _ in range(t)] for _ in range(b)]
    for p, frame in enumerate((kept // size).tolist()):
        blobs[frame // t][frame % t].append(Blob(float(x[p]), float(y[p]), float(area[p]), color[p], patches[p]))
    covered = max_pool2d(on.view(b * t, 1, h, w).float(), 3, stride=1, padding=1) > 0
    return blobs, covered.view(b, t, h, w)


def _patches(
    planes: Float[Tensor, "p 2 h w"], x: Float[Tensor, " p"], y: Float[Tensor, " p"], area: Float[Tensor, " p"]
) -> Float[Tensor, "p 2 s s"]:
    """Mask and shade of every piece about its middle, brought to one size by its area."""
    h, w = planes.shape[-2:]
    unit = min(h, w)
    steps = (torch.arange(PATCH) + 0.5) / PATCH * 2.0 - 1.0
    half = PATCH_REACH * area.sqrt()[:, None]
    columns = (x[:, None] + half * steps) * (2.0 * unit / w)
    rows = (y[:, None] + half * steps) * (2.0 * unit / h)
    places = torch.stack([columns[:, None, :].expand(-1, PATCH, -1), rows[:, :, None].expand(-1, -1, PATCH)], dim=-1)
    return grid_sample(planes, places, align_corners=False)


def _outer(blobs: list[Blob]) -> list[Blob]:
    """All but what lies inside another: toys do not overlap, so it is a highlight with the floor's colour around it."""

    def inside(one: Blob, other: Blob) -> bool:
        return one.area < other.area and math.hypot(one.x - other.x, one.y - other.y) ** 2 < 0.6 * other.area / math.pi

    return [one for one in blobs if not any(inside(one, other) for other in blobs)]


def _follow(frames: list[list[Blob]]) -> list[Track]:
    """Joins the pieces of successive frames that are nearest in place and colour; short tracks are left out."""
    tracks: list[Track] = []
    for now, blobs in enumerate(frames):
        pairs = []
        for i, track in enumerate(tracks):
            last = track[max(track)]
            for j, blob in enumerate(blobs):
                cost = math.hypot(blob.x - last.x, blob.y - last.y) + 0.3 * float((blob.color - last.color).norm())
                pairs.append((cost, i, j))
        taken_tracks, taken = set(), set()
        for cost, i, j in sorted(pairs):
            if cost < NEAR and i not in taken_tracks and j not in taken:
                tracks[i][now] = blobs[j]
                taken_tracks.add(i)
                taken.add(j)
        tracks += [{now: blob} for j, blob in enumerate(blobs) if j not in taken]
    return [track for track in tracks if len(track) >= (1.0 - LONGEST_GAP) * len(frames)]
