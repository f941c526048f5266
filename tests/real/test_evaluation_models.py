"""Variants of VBench with the weights that packages ship, on real frames; ST-LPIPS on real frames that are shifted."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from cogvideox.curation.model_files import FOLDER_VARIABLE
from cogvideox.evaluation.plugins import parse_plugin
from cogvideox.evaluation.scorer import Item, VideoFile
from cogvideox.evaluation.vbench.scorer import VBenchDimension
from cogvideox.records import Video
from cogvideox.video.io import read_image
from tests.goldens import GOLDENS

CLIPS = GOLDENS.parent / "clips"
pytestmark = [
    pytest.mark.skipif(FOLDER_VARIABLE not in os.environ, reason="run by make test-real"),
    pytest.mark.skipif(not CLIPS.is_dir(), reason="the folder of real clips (tests/goldens.py) does not exist"),
]


def still(name: str, folder: Path) -> VideoFile:
    """Write a video of eight equal frames."""
    Video(read_image(CLIPS / name)[None].repeat(8, 0), 8.0).save(folder / "still.mp4")
    return VideoFile(folder / "still.mp4")


@torch.inference_mode()
def test_scene_and_objects_with_package_weights(tmp_path):
    scene = VBenchDimension("scene", parse_plugin("scene", "efficientnet")).open(0)
    beach = still("beach.png", tmp_path)
    for name, expected in (("beach", 1.0), ("kitchen", 0.0)):
        item = Item("0", name, info={"auxiliary_info": {"scene": {"scene": name}}})
        assert scene(beach, item)["score"] == expected
    objects = VBenchDimension("multiple_objects", parse_plugin("objects", "centernet")).open(0)
    street = still("street.png", tmp_path)
    for names, expected in (("person and person", 1.0), ("person and toilet", 0.0)):
        assert objects(street, Item("0", names, info={"auxiliary_info": names}))["score"] == expected


def test_generated_clips_are_dynamic_and_their_first_frame_is_not(tmp_path):
    measure = VBenchDimension("dynamic_degree", parse_plugin("flow", "dis")).open(0)
    item = Item("0", "x")
    assert measure(VideoFile(CLIPS / "gallery-2.mp4"), item)["score"] == 1  # a driving car
    first = Video.load(CLIPS / "gallery-2.mp4", max_frames=1).frames
    Video(np.ascontiguousarray(first.repeat(49, 0)), 8.0).save(tmp_path / "still.mp4")
    assert measure(VideoFile(tmp_path / "still.mp4"), item)["score"] == 0
