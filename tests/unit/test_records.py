import json
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cogvideox.errors import UserError
from cogvideox.records import Clip, LatentSample, PackedBatch, Video

FRAMES = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
METADATA = {"prompt": "a red ball 🎈", "seed": 3, "guidance_scale": 4.5, "image": None}


def names(folder):
    return sorted(file.name for file in folder.iterdir())


@pytest.mark.parametrize("name", ["x.mp4", "x.gif", "x.png", "x.PNG"])
def test_metadata_is_written_beside_the_video(tmp_path, name):
    Video(FRAMES, 8.0, METADATA).save(tmp_path / "new" / name)
    assert names(tmp_path / "new") == sorted([name, "x.json"])
    assert json.loads((tmp_path / "new" / "x.json").read_text(encoding="utf-8")) == METADATA


def test_the_name_of_the_metadata_does_not_depend_on_its_existence(tmp_path):
    """Beside a photo of the same name, which has no metadata."""
    (tmp_path / "x.png").touch()
    for _ in range(2):
        Video(FRAMES, 8.0, METADATA).save(tmp_path / "x.mp4")
        assert names(tmp_path) == ["x.mp4", "x.mp4.json", "x.png"]


def test_without_metadata_only_the_video_is_written(tmp_path):
    Video(FRAMES, 8.0).save(tmp_path / "x.mp4")
    assert names(tmp_path) == ["x.mp4"]


def test_a_failed_write_leaves_the_earlier_files(tmp_path):
    Video(FRAMES[:1], 8.0, {"seed": 1}).save(tmp_path / "x.mp4")
    before = [(tmp_path / name).read_bytes() for name in ("x.mp4", "x.json")]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        for name in ("x.mp4", "x.gif", "x.png"):
            with pytest.raises(UserError, match=r"cannot write .*x\.(mp4|gif|png): the file would be larger"):
                Video(FRAMES, 8.0, METADATA).save(tmp_path / name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert names(tmp_path) == ["x.json", "x.mp4"]
    assert [(tmp_path / name).read_bytes() for name in ("x.mp4", "x.json")] == before


def test_the_suffix_json_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"the suffix \.json is for metadata; use one of \.mp4"):
        Video(FRAMES, 8.0, METADATA).save(tmp_path / "x.json")
    assert names(tmp_path) == []


@pytest.mark.parametrize("content", ['{"name": "mine"}', "[1]", "{", ""])
def test_unrelated_json_files_are_not_overwritten(tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(UserError, match=r"x\.json exists and is not video metadata; choose a different name"):
        Video(FRAMES, 8.0, METADATA).save(tmp_path / "x.mp4")
    assert names(tmp_path) == ["x.json"]
    assert (tmp_path / "x.json").read_text() == content


@pytest.mark.parametrize("change", [{}, {"seed": ...}, {"strength": 0.8}, {"seed": ..., "strength": 0.8}])
def test_earlier_metadata_is_replaced(tmp_path, change):
    earlier = {key: value for key, value in {**METADATA, **change}.items() if value is not ...}
    for metadata in (earlier, METADATA):
        Video(FRAMES[:1], 8.0, metadata).save(tmp_path / "x.png")
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == METADATA


def test_neither_torch_nor_av_is_imported():
    code = "import sys, cogvideox.records; sys.exit(bool({'torch', 'av'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_duration_of_a_clip():
    clip = Clip("a", Path("a.mp4"), 1.0, 3.0, 8.0, 64, 48, 16, "a ball", {"flow": 0.5})
    assert clip.seconds == 2.0 and not clip.is_image
    image = replace(clip, start=None, end=None, fps=0.0, num_frames=1)
    assert image.is_image and image.seconds == 0.0


@pytest.mark.parametrize(("shape", "dtype"), [((4, 2, 3), torch.bfloat16), ((4, 2, 3, 3), torch.float32)])
def test_latents_have_four_axes_and_are_bfloat16(shape, dtype):
    good, text = torch.zeros(4, 2, 3, 3, dtype=torch.bfloat16), torch.zeros(5, 8, dtype=torch.bfloat16)
    sample = LatentSample("a", good, good, text, 8.0, (48, 64), (0, 8, 48, 48), "v", "t")
    with pytest.raises(Exception, match="mean"):
        replace(sample, mean=torch.zeros(shape, dtype=dtype))


def packed_batch(**changes):
    latents = (torch.zeros(4, 1, 2, 2), torch.zeros(4, 3, 2, 4))
    fields = {"latents": latents, "noise": latents, "text": torch.zeros(2, 5, 8), "timestep": torch.tensor([3, 7])}
    return PackedBatch(**fields | {"clip_ids": ("a", "b")} | changes)


@pytest.mark.parametrize("image", [None, (torch.zeros(4, 1, 2, 2),) * 2])
def test_moving_a_packed_batch_moves_all_tensors(image):
    batch = packed_batch(image=image)
    moved = batch.to("meta")
    assert len(moved) == 2 and moved.clip_ids == ("a", "b")
    tensors = [*moved.latents, *moved.noise, moved.text, moved.timestep, *(moved.image or ())]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert [tensor.shape for tensor in moved.latents] == [tensor.shape for tensor in batch.latents]


def test_clips_of_a_packed_batch_may_differ_only_in_size():
    with pytest.raises(Exception, match="timestep"):
        packed_batch(timestep=torch.tensor([3, 7, 9]))
    with pytest.raises(Exception, match="latents"):  # one random element of a tuple is checked
        packed_batch(latents=(torch.zeros(4, 2, 2), torch.zeros(4, 3, 2)))
