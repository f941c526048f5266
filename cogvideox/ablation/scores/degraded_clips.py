"""Clips of which most have an overlay, with a noisy score of their quality, for the ablation of the last stage.

Axes: `t` frames, `h w` height and width in pixels.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from cogvideox.ablation.arm import OverlayClips
from cogvideox.atomic_io import write_text
from cogvideox.dataset.config import ClipFormat
from cogvideox.dataset.ingest.scan import scan_folder
from cogvideox.dataset.latents.encode import encode_clips
from cogvideox.dataset.latents.encode_plan import plan_encoding
from cogvideox.dataset.latents.latent_store import INDEX
from cogvideox.pretrained.model_spec import read_spec
from cogvideox.records import Video
from cogvideox.toybox.captions.caption import caption_scene
from cogvideox.toybox.captions.core import STYLES
from cogvideox.toybox.render.renderer import render_scene
from cogvideox.toybox.scenes.sampler import sample_scene

OVERLAYS = ("logo", "bar")
NUM_FRAMES, FPS = 9, 8.0

OnProgress = Callable[[str, int, int], None]
"""Called with the stage, the number of its items done, and the total."""


def overlay_pixels(kind: str, height: int, width: int) -> tuple[tuple[slice, slice], UInt8[np.ndarray, "h w"]]:
    """Return the position of an overlay (rows, columns) and its pixels, 0 or 255.

    Args:
        kind: "logo": a white cross on a black square in the upper right corner; "bar": a black bar along the lower edge
            with two white blocks as words.
    """
    size = height // 4
    if kind == "logo":
        position = slice(0, size), slice(width - size, width)
        y, x = np.mgrid[0:size, 0:size] / size
        white = (abs(y - 0.5) < 0.17) | (abs(x - 0.5) < 0.17)
    else:
        position = slice(height - size, height), slice(0, width)
        y, x = np.mgrid[0:size, 0:width]
        white = (abs(y / size - 0.5) < 0.3) & (x * 4 // width % 2 == 1)
    return position, np.where(white, 255, 0).astype(np.uint8)


def draw_overlay(frames: UInt8[np.ndarray, "t h w 3"], kind: str) -> None:
    """Draw an overlay on all frames, in place."""
    (rows, columns), overlay = overlay_pixels(kind, *frames.shape[1:3])
    frames[:, rows, columns] = overlay[..., None]


def has_overlay(frames: UInt8[np.ndarray, "t h w 3"]) -> bool:
    """Return whether the gray, time-averaged pixels at the position of an overlay correlate with it (r > 0.5)."""
    for kind in OVERLAYS:
        (rows, columns), overlay = overlay_pixels(kind, *frames.shape[1:3])
        pixels = frames[:, rows, columns].mean((0, 3))
        if pixels.std() > 8 and np.corrcoef(pixels.ravel(), overlay.ravel())[0, 1] > 0.5:
            return True
    return False


def write_store(out: Path, clips: OverlayClips, on_progress: OnProgress | None = None) -> Path:
    """Render clips of 9 frames with captions and a `quality`, and encode them with the shipped model, in `out/store`.

    The quality is a normal variable around 1 without and around 0 with an overlay, with a deviation of 0.3. Files that
    exist are not written again.

    Returns:
        The latent store.
    """
    store, folder = out / "store", out / "clips"
    if (store / INDEX).is_file():
        return store
    if not (folder / "metadata.jsonl").exists():
        folder.mkdir(parents=True, exist_ok=True)
        lines = []
        for line in _render(folder, clips):
            lines.append(line)
            if on_progress is not None:
                on_progress("rendering clips", len(lines), clips.num_clips)
        write_text(folder / "metadata.jsonl", "\n".join(lines) + "\n")
    target = ClipFormat(fps=FPS, num_frames=NUM_FRAMES, height=clips.side, width=clips.side)
    plan = plan_encoding(scan_folder(folder), read_spec("toybox"), target)

    def on_encoded(items: str, done: int, total: int) -> None:
        if on_progress is not None:
            on_progress(f"encoding {items}", done, total)

    encode_clips(plan, store, on_progress=on_encoded)
    return store


def _render(folder: Path, clips: OverlayClips) -> Iterator[str]:
    """Render the clips of a folder, and yield the lines of its metadata."""
    rng = np.random.default_rng(clips.seed)
    for i in range(clips.num_clips):
        with_overlay = rng.random() < clips.overlay_probability
        scene = sample_scene(rng, split="training")
        frames = render_scene(scene, num_frames=NUM_FRAMES, height=clips.side, width=clips.side).numpy()
        if with_overlay:
            draw_overlay(frames, OVERLAYS[rng.integers(len(OVERLAYS))])
        Video(frames, fps=FPS).save(folder / f"{i:05d}.mp4")
        caption = caption_scene(scene, STYLES[rng.integers(len(STYLES))], rng)
        quality = round(float(rng.normal(0.0 if with_overlay else 1.0, 0.3)), 3)
        yield json.dumps({"file_name": f"{i:05d}.mp4", "text": caption, "quality": quality})
