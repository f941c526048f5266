"""The whole pipeline on the command line: train a VAE and a transformer on clips, generate a video, and judge it.

Every stage is real but only a few steps long, so the video is noise. The test checks that each stage accepts the output
of the previous one; the quality of trained models is measured elsewhere.
"""

import json
import os

import pytest
import torch

from cogvideox import CogVideoX
from cogvideox.cli.main import main
from cogvideox.records import Video
from cogvideox.toybox.captions.caption import parse_prompt
from cogvideox.toybox.judge.judge import judge_clip

SIZE = [f"{clips}.{side}=32" for clips in ("clips", "validation") for side in ("height", "width")]
FEW = ["clips.num_clips=8", "validation.num_clips=2", "run.num_steps=3", "run.validate_interval=3"]
PROMPT = "a red ball moves right on a white background"


def cogvideox(*arguments: str) -> None:
    assert main(arguments) == os.EX_OK


@pytest.mark.filterwarnings("ignore:.*was trained on")
def test_from_clips_to_a_judged_video(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    crops = ["crop_steps=1", "crop_size=16", "crop_batch_size=2", "encoder_steps=2"]
    cogvideox("train", "toybox-vae", "--out", "vae", *SIZE, *FEW, *crops)
    small = ["vae=vae", "transformer.num_layers=1", "run.batch_size=4", "sampling.interval=0"]
    cogvideox("train", "toybox", "--out", "run", *SIZE, *FEW, *small)

    cogvideox("generate", PROMPT, "--model", "run/model", "-o", "x.mp4", "--seed", "0", "--num-inference-steps", "2")
    video = Video.load("x.mp4")
    assert video.frames.shape == (9, 32, 32, 3)
    assert json.loads((tmp_path / "x.json").read_text())["prompt"] == PROMPT

    verdict = judge_clip(torch.from_numpy(video.frames), parse_prompt(PROMPT))
    assert set(verdict) == {"color", "shape", "motion", "background"}

    # The model folder of a run can be loaded like any other.
    frames = CogVideoX.from_pretrained("run/model").generate(PROMPT, seed=0, num_frames=5).frames
    assert frames.shape == (5, 32, 32, 3)
