"""Three rendered examples of each label, from the effects of the toy world."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from cogvideox.toybox.effects import degradation, edits, pages, people, scenes, screens
from cogvideox.toybox.effects.text import TextStyle

Frames = UInt8[np.ndarray, "t h w 3"]
_SIZE, _FPS, _NUM_FRAMES = (180, 320), 12.0, 30
FOLDER = "examples"
VERSION = 1


def _toys(seed: int) -> Frames:
    """Return a clip without defects."""
    from cogvideox.toybox.render.renderer import render_scene
    from cogvideox.toybox.scenes.sampler import sample_scene

    motion = ("left", "right", "up")[seed % 3]
    scene = sample_scene(seed, seconds=(_NUM_FRAMES - 1) / _FPS, size="large", motion=motion)
    return render_scene(scene, num_frames=_NUM_FRAMES, height=_SIZE[0], width=_SIZE[1], fps=_FPS).numpy()


def _filmed(clip: Frames) -> Frames:
    return screens.filmed_screen(clip, 0, period=3.0)


def _slow_zoom(frame: UInt8[np.ndarray, "h w 3"]) -> Frames:
    """Return a still that is enlarged slowly."""
    import torch

    from cogvideox.video.transform import resize

    height, width = frame.shape[:2]
    zoomed = []
    for index in range(_NUM_FRAMES):
        top, left = (round(side * index / _NUM_FRAMES * 0.12) for side in (height, width))
        part = np.ascontiguousarray(frame[top : height - top, left : width - left])
        zoomed.append(resize(torch.from_numpy(part)[None], height, width, "stretch")[0].numpy())
    return np.stack(zoomed)


EXAMPLES: dict[str, tuple[tuple[str, Callable[[], Frames]], ...]] = {
    "editing": (
        ("A transition between two shots", lambda: edits.wipe(_toys(0), _toys(1), 10, 8)),
        ("A logo in the corner", lambda: edits.logo(_toys(2), 1, "top right")),
        ("Picture-in-picture", lambda: edits.picture_in_picture(_toys(3), _toys(4), "bottom left")),
    ),
    "static": (
        ("Frozen frames", lambda: np.repeat(_toys(5)[:1], _NUM_FRAMES, axis=0)),
        ("A still with a slow zoom", lambda: _slow_zoom(_toys(6)[0])),
        ("Frames that jump", lambda: np.repeat(_toys(7)[::10], 10, axis=0)),
    ),
    "low_quality": (
        ("Blurred", lambda: degradation.blur(_toys(8), 4.0)),
        ("Noisy", lambda: degradation.noise(_toys(9), 40.0, 0)),
        ("Blocky", lambda: degradation.jpeg(_toys(10), 3)),
    ),
    "lecture": (
        ("A person talks to the camera", lambda: scenes.talking_head(_NUM_FRAMES, _SIZE, 0, _FPS)),
        ("A presenter in an office", lambda: people.presenter(_NUM_FRAMES, _SIZE, 1, _FPS)),
        ("A presenter in a library", lambda: people.presenter(_NUM_FRAMES, _SIZE, 2, _FPS, "library")),
    ),
    "text": (
        ("Slides", lambda: scenes.slides(_NUM_FRAMES, _SIZE, 0)),
        ("Credits", lambda: pages.credits_roll(_NUM_FRAMES, _SIZE, 0, TextStyle(), (20, 24, 40))),
        ("A title card", lambda: pages.title_card(_toys(11), 0, 3, TextStyle())),
    ),
    "screenshot": (
        ("A desktop", lambda: scenes.screen_recording(_NUM_FRAMES, _SIZE, 0)),
        ("A terminal", lambda: screens.terminal(_NUM_FRAMES, _SIZE, 0, scenes.DARK)),
        (
            "A screen that was filmed",
            lambda: screens.filmed_screen(scenes.screen_recording(_NUM_FRAMES, _SIZE, 1), 0, 3.0),
        ),
    ),
}
"""Descriptions and renderers by label."""


def example_file(folder: Path, label: str, index: int) -> Path:
    """Return the file of an example, and render it first if needed."""
    from cogvideox.video import io

    path = folder / FOLDER / f"{label}-{index}-v{VERSION}.mp4"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        io.write(path, EXAMPLES[label][index][1](), _FPS)
    return path
