"""Transitions between clips, and their positions.

Axes: `t` frames, `h w` pixels, `c` RGB.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

Frames = UInt8[np.ndarray, "_ h w c"]


@dataclass(frozen=True)
class Transition:
    """A transition between two shots.

    Attributes:
        frame: index of the first frame of the new shot, or of the middle frame of a dissolve.
        num_frames: number of mixed frames; 0 for a cut.
    """

    frame: int
    num_frames: int = 0


def join(shots: Sequence[Frames], num_mixed: Sequence[int]) -> tuple[Frames, list[Transition]]:
    """Join shots with cuts and dissolves.

    Args:
        num_mixed: number of mixed frames between each shot and the next; 0 for a cut.

    Returns:
        The clip, shortened by the mixed frames of dissolves, and its transitions.
    """
    clip, transitions = shots[0], []
    for shot, mixed in zip(shots[1:], num_mixed, strict=True):
        if mixed == 0:
            transitions.append(Transition(len(clip)))
            clip = np.concatenate([clip, shot])
            continue
        transitions.append(Transition(len(clip) - mixed + mixed // 2, mixed))
        weights = (np.arange(1, mixed + 1) / (mixed + 1)).reshape(-1, 1, 1, 1)
        blend = clip[-mixed:] * (1.0 - weights) + shot[:mixed] * weights
        clip = np.concatenate([clip[:-mixed], blend.round().astype(np.uint8), shot[mixed:]])
    return clip, transitions


def fade(clip: Frames, num_frames: int) -> Frames:
    """Fade in from black and out to black over `num_frames` frames each."""
    index = np.arange(len(clip))
    gain = np.minimum(1.0, np.minimum(index, index[::-1]) / num_frames).reshape(-1, 1, 1, 1)
    return (clip * gain).round().astype(np.uint8)


def jump_cut(clip: Frames, start: int, length: int) -> tuple[Frames, Transition]:
    """Remove `length` frames of a shot, from frame `start` on."""
    return np.concatenate([clip[:start], clip[start + length :]]), Transition(start)
