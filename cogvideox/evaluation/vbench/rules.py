"""The rules of five dimensions of VBench, as functions of frames and models.

Every rule returns the values of one video or piece: `score`, and the terms that the plain protocol pools over videos.

Axes: t frames, h w height and width in pixels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8

from cogvideox.errors import UserError
from cogvideox.evaluation.models.interfaces import (
    ActionClassifier,
    Captioner,
    FlowEstimator,
    ImageText,
    ObjectDetector,
)
from cogvideox.evaluation.vbench.pieces import middle_frames

Frames = UInt8[np.ndarray, "t h w 3"]

NUM_ACTIONS, MIN_PROBABILITY = 5, 0.85
MAX_SIDE, REDUCED_SIDE = 768, 720
"""Frames whose shorter side is longer than MAX_SIDE are reduced to REDUCED_SIDE before objects are detected."""
FLOW_FPS, FASTEST_FRACTION, REFERENCE_SIDE, MIN_SPEED = 8, 0.05, 256, 6.0
"""A pair moves if the mean speed of its fastest 5 % of pixels is above 6 pixels, for a shorter side of 256 pixels."""
MIN_PAIRS = 4
"""Number of moving pairs that 16 frames need."""


def human_action(
    frames: Frames, action: str, classify: ActionClassifier, *, official_bugs: bool = False
) -> dict[str, Any]:
    """Score 1 if the action is among the five most probable ones, with a probability (4 digits) of at least 0.85.

    Raises:
        UserError: the classifier does not know the action (not with `official_bugs`, where the score is 0).
    """
    probabilities = classify(frames[middle_frames(len(frames))], action)
    if action not in probabilities and not official_bugs:
        raise UserError(f"the action {action!r} is not one of the {len(probabilities)} that the classifier knows")
    best = sorted(probabilities, key=lambda name: -probabilities[name])[:NUM_ACTIONS]
    kept = [name for name in best if round(probabilities[name], 4) >= MIN_PROBABILITY]
    return {"score": int(action in kept), "actions": kept}


def scene(frames: Frames, name: str, describe: Captioner) -> dict[str, Any]:
    """Count the frames whose caption contains every word of the scene's name, also inside other words."""
    captions = describe(frames[middle_frames(len(frames))])
    hits = sum(all(word in caption for word in name.split(" ")) for caption in captions)
    return {"hits": hits, "frames": len(captions), "score": hits / len(captions)}


def multiple_objects(frames: Frames, names: str, detect: ObjectDetector) -> dict[str, Any]:
    """Count the frames that show both objects, such as "bird and cat"."""
    first, second = (name.strip() for name in names.split(" and "))
    detected = detect(_reduced(frames[middle_frames(len(frames))]))
    hits = sum(first in objects and second in objects for objects in detected)
    return {"hits": hits, "frames": len(detected), "score": hits / len(detected)}


def appearance_style(frames: Frames, style: str, compare: ImageText) -> dict[str, Any]:
    """Return the similarity (logits / 100) of frames and style: its sum, mean, and that of the last frame."""
    similarities = compare(frames, style)
    return {
        "similarity": float(similarities.sum()),
        "frames": len(frames),
        "score": float(similarities.mean()),
        "last_frame": float(similarities[-1]),
    }


def dynamic_degree(
    frames: Frames, fps: float, estimate: FlowEstimator, *, official_bugs: bool = False
) -> dict[str, Any]:
    """Score 1 if enough pairs of frames, sampled at about 8 fps, move.

    The required number grows with the number of frames. It is 0 for two frames in the official tool, which are always
    dynamic; here it is at least 1.

    Raises:
        UserError: a video of one frame (not with `official_bugs`, where it is static).
    """
    frames = frames[:: max(1, round(fps / FLOW_FPS))]
    if len(frames) < 2 and not official_bugs:
        raise UserError("the dynamic degree needs at least two frames")
    threshold = MIN_SPEED * min(frames.shape[1:3]) / REFERENCE_SIDE
    required = round(MIN_PAIRS * len(frames) / 16)
    speeds = [fastest_speed(flow) for flow in estimate(frames)]
    moving = sum(speed > threshold for speed in speeds)
    is_dynamic = len(speeds) > 0 and moving >= (required if official_bugs else max(required, 1))
    return {"score": int(is_dynamic), "moving_pairs": moving, "required_pairs": required, "speeds": speeds}


def fastest_speed(flow: Float[np.ndarray, "h w 2"]) -> float:
    """Return the mean speed of the fastest 5 % of pixels."""
    speeds = np.sort(np.sqrt(np.square(flow).sum(-1)).ravel())
    return float(speeds[len(speeds) - max(1, int(len(speeds) * FASTEST_FRACTION)) :].mean())


def action_of_prompt(prompt: str) -> str | None:
    """Return the action in a prompt, "A person is riding a bike"; None if it has another form."""
    _, separator, action = prompt.lower().rpartition("person is ")
    return action.strip() if separator else None


def action_of_file(name: str) -> str:
    """Return what the official tool reads as the action from a file's name; any other name gives a wrong one."""
    return name.lower().split("-")[0].split("person is ")[-1].split("_")[0]


def auxiliary(info: Mapping[str, Any]) -> str:
    """Return the name in VBench's nested auxiliary information: the object, scene or style."""
    value: Any = info.get("auxiliary_info")
    while isinstance(value, Mapping) and len(value) == 1:
        value = next(iter(value.values()))
    if not isinstance(value, str):
        raise UserError(
            "the prompt has no auxiliary information: pass --prompts VBench_full_info.json, from VBench's repository"
        )
    return value


def _reduced(frames: Frames) -> UInt8[np.ndarray, "t _h _w 3"]:
    height, width = frames.shape[1:3]
    if min(height, width) <= MAX_SIDE:
        return frames
    scale = REDUCED_SIDE / min(height, width)
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    size = int(scale * height), int(scale * width)
    resized = F.interpolate(pixels, size, mode="bilinear", antialias=True)
    return resized.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()


def pooled(values: Sequence[Mapping[str, Any]]) -> float:
    """Return the mean score of pieces."""
    return float(np.mean([value["score"] for value in values]))
