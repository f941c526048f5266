"""Render clips with known effects (the ground truth), and compare the results of a curation with them.

python benchmarks/curation_renders.py render raw/renders --num-clips 300
cogvideox curate raw curated --workers 2
python benchmarks/curation_renders.py check raw/renders curated --out build/curation-renders.json
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from common import write_json

from cogvideox.curation.manifest import read_manifest
from cogvideox.toybox.effects import camera, degradation, scenes, text, timing, transitions
from cogvideox.toybox.render.renderer import render_scene
from cogvideox.toybox.scenes.sampler import sample_scene
from cogvideox.video import io

FPS, NUM_FRAMES, SIZE = 16.0, 48, (180, 320)
DIAGONAL = float(np.hypot(*SIZE))
SEED = 50_000  # above the seeds of tests and examples
TRUTH = "truth.json"
MIN_TEXT = 0.002  # minimum area of text, as a fraction of the frame


@dataclass(frozen=True)
class Truth:
    """Ground truth of a rendered clip.

    Attributes:
        cuts: first frame after each cut.
        dissolves: first and last mixed frame of each dissolve.
        text: "overlay", "scene" or None.
        motion: largest component of the motion: "camera", "shake" or "object"; None if it is not checked.
        flow: mean optical flow in diagonals per second; None if it is unknown.
        frozen: fraction of the time in which the frame does not change; None if it is not checked.
    """

    kind: str
    cuts: tuple[int, ...] = ()
    dissolves: tuple[tuple[int, int], ...] = ()
    text: str | None = None
    motion: str | None = None
    flow: float | None = None
    frozen: float | None = None


def random_pan(rng: np.random.Generator, num_frames: int = NUM_FRAMES) -> camera.CameraPath:
    direction, speed = rng.uniform(0, 2 * np.pi), rng.uniform(1.0, 4.0)
    return camera.pan(num_frames, (float(speed * np.cos(direction)), float(speed * np.sin(direction))))


def panned(rng: np.random.Generator, seed: int, num_frames: int = NUM_FRAMES) -> np.ndarray:
    return camera.film(camera.texture(seed, (500, 800)), random_pan(rng, num_frames), SIZE)


def toybox_scene(seed: int) -> np.ndarray:
    return render_scene(sample_scene(seed), num_frames=NUM_FRAMES, height=SIZE[0], width=SIZE[1], fps=FPS).numpy()


def render_pan(rng: np.random.Generator, seed: int) -> tuple[np.ndarray, Truth]:
    path = random_pan(rng)
    flow = float(np.linalg.norm(path.shift[1] - path.shift[0])) * FPS / DIAGONAL
    return camera.film(camera.texture(seed, (500, 800)), path, SIZE), Truth("pan", motion="camera", flow=flow)


def render_zoom(rng: np.random.Generator, seed: int) -> tuple[np.ndarray, Truth]:
    path = camera.zoom(NUM_FRAMES, float(rng.uniform(0.004, 0.012)))
    flow = float(np.linalg.norm(camera.flow_of(path, SIZE), axis=-1).mean()) * FPS / DIAGONAL
    return camera.film(camera.texture(seed, (500, 800)), path, SIZE), Truth("zoom", motion="camera", flow=flow)


def render_shake(rng: np.random.Generator, seed: int) -> tuple[np.ndarray, Truth]:
    path = camera.shake(NUM_FRAMES, float(rng.uniform(2.0, 5.0)), seed, FPS)
    return camera.film(camera.texture(seed, (500, 800)), path, SIZE), Truth("shake", motion="shake")


def render_object(rng: np.random.Generator, seed: int) -> tuple[np.ndarray, Truth]:
    clip = np.repeat(camera.texture(seed, SIZE)[None], NUM_FRAMES, axis=0)
    moving, speed = camera.texture(seed + 1, (50, 50)), rng.uniform(2.0, 5.0)
    for index, frame in enumerate(clip):
        frame[60:110, 10 + round(speed * index) :][:, :50] = moving[:, : max(0, SIZE[1] - 10 - round(speed * index))]
    return clip, Truth("object", motion="object")


def render_cuts(rng: np.random.Generator, seed: int) -> tuple[np.ndarray, Truth]:
    return join_shots(rng, seed, "cuts", [0, 0])


def render_dissolves(rng: np.random.Generator, seed: int) -> tuple[np.ndarray, Truth]:
    return join_shots(rng, seed, "dissolves", [int(mixed) for mixed in rng.integers(6, 16, 2)])


def join_shots(rng: np.random.Generator, seed: int, kind: str, mixed: list[int]) -> tuple[np.ndarray, Truth]:
    shots = [panned(rng, seed + index, int(rng.integers(36, 48))) for index in range(3)]
    clip, transition_list = transitions.join(shots, mixed)
    first_frames = [transition.frame - transition.num_frames // 2 for transition in transition_list]
    cuts = tuple(transition.frame for transition in transition_list if not transition.num_frames)
    dissolves = tuple(
        (a, a + transition.num_frames - 1)
        for a, transition in zip(first_frames, transition_list, strict=True)
        if transition.num_frames
    )
    return degradation.noise(clip, 2.0, seed), Truth(kind, cuts, dissolves)


def render_jump_cut(rng: np.random.Generator, seed: int) -> tuple[np.ndarray, Truth]:
    clip, cut = transitions.jump_cut(panned(rng, seed, 100), int(rng.integers(20, 30)), 50)
    return clip, Truth("jump cut", (cut.frame,))


def render_freeze(rng: np.random.Generator, seed: int) -> tuple[np.ndarray, Truth]:
    length = int(rng.integers(12, 32))
    clip = timing.freeze(panned(rng, seed), 8, length)
    # The picture jumps when the freeze ends, so the first clip has 8 moving frames and the freeze.
    return clip, Truth("freeze", cuts=(8 + length,), frozen=(length - 1) / (7 + length))


def render_overlay(rng: np.random.Generator, seed: int) -> tuple[np.ndarray, Truth]:
    style = text.TextStyle(size=float(rng.uniform(0.07, 0.11)), opacity=float(rng.uniform(0.7, 1.0)))
    anchor = rng.choice(["top", "bottom", "top left", "top right", "bottom left", "bottom right"])
    return text.overlay(panned(rng, seed), text.sentence(seed, 2), anchor, style)[0], Truth("overlay", text="overlay")


def render_sign(rng: np.random.Generator, seed: int) -> tuple[np.ndarray, Truth]:
    style = text.TextStyle(size=0.12, box=(230, 230, 220), color=(20, 30, 60), outline=None)
    canvas = text.paint(camera.texture(seed, (500, 800)), text.sentence(seed, 2).upper(), (330, 240), SIZE[0], style)
    return camera.film(canvas, random_pan(rng), SIZE), Truth("sign", text="scene")


def render_slides(rng: np.random.Generator, seed: int) -> tuple[np.ndarray, Truth]:
    return scenes.slides(NUM_FRAMES, SIZE, seed, num_pages=1), Truth("slides", frozen=1.0)


def render_screen(rng: np.random.Generator, seed: int) -> tuple[np.ndarray, Truth]:
    scheme = scenes.DARK if rng.random() < 0.5 else scenes.LIGHT
    return scenes.screen_recording(NUM_FRAMES, SIZE, seed, scheme), Truth("screen recording")


def render_head(rng: np.random.Generator, seed: int) -> tuple[np.ndarray, Truth]:
    return scenes.talking_head(NUM_FRAMES, SIZE, seed, FPS), Truth("talking head")


def render_damage(rng: np.random.Generator, seed: int) -> tuple[np.ndarray, Truth]:
    clip = toybox_scene(seed)
    damages: list[Callable[[], np.ndarray]] = [
        lambda: degradation.jpeg(clip, 8),
        lambda: degradation.blur(clip, 3.0),
        lambda: degradation.noise(clip, 20.0, seed),
        lambda: degradation.add_borders(clip, 0.15),
        lambda: degradation.moire(clip, 5.0, float(rng.uniform(0.3, 1.2))),
    ]
    return damages[seed % len(damages)](), Truth("damage")


def render_toybox(rng: np.random.Generator, seed: int) -> tuple[np.ndarray, Truth]:
    return toybox_scene(seed), Truth("toybox")


KINDS = (
    *(render_pan, render_zoom, render_shake, render_object, render_cuts, render_dissolves, render_jump_cut),
    *(render_freeze, render_overlay, render_sign, render_slides, render_screen, render_head, render_damage),
    render_toybox,
)


def render(folder: Path, num_clips: int) -> None:
    """Write missing clips, and the ground truth of all clips."""
    folder.mkdir(parents=True, exist_ok=True)
    truths = {}
    for index in range(num_clips):
        seed = SEED + 10 * index
        clip, truth = KINDS[index % len(KINDS)](np.random.default_rng(seed), seed)
        name = f"{index:04d}-{truth.kind.replace(' ', '-')}.mp4"
        if not (folder / name).is_file():
            io.write(folder / name, clip, FPS)
        truths[name] = asdict(truth)
    write_json(folder / TRUTH, truths)


def check(folder: Path, output: Path) -> dict[str, Any]:
    """Compare a manifest with the ground truth."""
    truths = json.loads((folder / TRUTH).read_text(encoding="utf-8"))
    clips: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in read_manifest(output).to_pylist():
        if row["index"] is not None:
            clips[Path(row["source"]).name].append(row)
    rows = [(Truth(**truth), sorted(clips[name], key=lambda row: row["start"])) for name, truth in truths.items()]
    measured = [(truth, found) for truth, found in rows if found]
    return {
        "clips": {"files": len(rows), "without_clips": sum(not found for _, found in rows)},
        "f1": {"cuts": f1(measured, find_cuts, "cuts"), "dissolves": f1(measured, find_dissolves, "dissolves")},
        "text": check_text(measured),
        "motion": check_motion(measured),
        "frozen_fraction_error": max_error(measured, "frozen", "stillness.frozen_share"),
    }


Rows = list[tuple[Truth, list[dict[str, Any]]]]


def find_cuts(clips: list[dict[str, Any]]) -> list[Any]:
    return [round(clip["start"] * FPS) for clip in clips if clip["begins_with"] == "cut"]


def find_dissolves(clips: list[dict[str, Any]]) -> list[Any]:
    ends = [(a["end"], b["start"]) for a, b in pairwise(clips) if b["begins_with"] == "dissolve"]
    return [(round(end * FPS), round(start * FPS) - 1) for end, start in ends]


def f1(rows: Rows, find: Callable[[list[dict[str, Any]]], list[Any]], kind: str) -> float:
    """Return the F1 score of transitions: cuts at the exact frame, dissolves that overlap by more than half."""
    hits = total = 0
    for truth, clips in rows:
        found, expected = (
            find(clips),
            [tuple(transition) if isinstance(transition, list) else transition for transition in getattr(truth, kind)],
        )
        hits += sum(any(matches(transition, candidate) for candidate in found) for transition in expected)
        total += len(found) + len(expected)
    return round(2 * hits / max(total, 1), 4)


def matches(expected: Any, found: Any) -> bool:
    if isinstance(expected, int):
        return expected == found
    overlap = min(expected[1], found[1]) - max(expected[0], found[0]) + 1
    return overlap > (expected[1] - expected[0] + 1) / 2


def check_text(rows: Rows) -> dict[str, Any]:
    def count_detected(kind: str | None, column: str) -> str:
        areas = [max((clip[column] or 0.0) for clip in clips) for truth, clips in rows if truth.text == kind and clips]
        return f"{sum(area > MIN_TEXT for area in areas)} of {len(areas)}"

    return {
        "overlays_found": count_detected("overlay", "text.overlay_area"),
        "scene_text_found": count_detected("scene", "text.scene_area"),
        "scene_text_called_overlay": count_detected("scene", "text.overlay_area"),
    }


def check_motion(rows: Rows) -> dict[str, Any]:
    parts = ("camera", "shake", "object")
    correct, flows = [], []
    for truth, clips in rows:
        if not clips:
            continue
        if truth.motion is not None:
            values = {part: clips[0][f"motion.{part}"] for part in parts}
            correct.append(max(values, key=lambda part: values[part]) == truth.motion)
        if truth.flow is not None:
            flows.append((truth.flow, clips[0]["motion.flow_mean"]))
    expected, measured = np.array(flows).T
    return {
        "largest_part_is_right": f"{sum(correct)} of {len(correct)}",
        "flow_correlation": round(float(np.corrcoef(expected, measured)[0, 1]), 4),
        "flow_median_error": round(float(np.median(np.abs(measured / expected - 1))), 4),
    }


def max_error(rows: Rows, kind: str, column: str) -> float:
    errors = [
        abs(getattr(truth, kind) - clips[0][column])
        for truth, clips in rows
        if clips and getattr(truth, kind) is not None
    ]
    return round(max(errors, default=0.0), 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("render", help="write the clips")
    command.add_argument("folder", type=Path)
    command.add_argument("--num-clips", type=int, default=300)
    command = commands.add_parser("check", help="compare the manifest of a curation with the ground truth")
    command.add_argument("folder", type=Path)
    command.add_argument("output", type=Path, help="output folder of `curate`")
    command.add_argument("--out", type=Path, help="also write the JSON to this file")
    options = parser.parse_args()
    if options.command == "render":
        render(options.folder, options.num_clips)
        return
    report = check(options.folder, options.output)
    print(json.dumps(report, indent=2))
    if options.out is not None:
        write_json(options.out, report)


if __name__ == "__main__":
    main()
