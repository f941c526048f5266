"""The whole pipeline on the command line: train a VAE and a transformer on clips, generate a video, and judge it.

Every stage runs for only a few steps, so the video is noise. The test checks that each stage accepts the output of the
previous one, not the quality of the models.
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
SHORT_RUN = ["clips.num_clips=8", "validation.num_clips=2", "run.num_steps=3", "run.validate_interval=3"]
PROMPT = "a red ball moves right on a white background"


def cogvideox(*arguments: str) -> None:
    assert main(arguments) == os.EX_OK


@pytest.mark.filterwarnings("ignore:.*was trained on")
def test_models_trained_on_the_command_line_generate_a_video_that_can_be_judged(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    crops = ["crop_steps=1", "crop_size=16", "crop_batch_size=2", "encoder_steps=2"]
    cogvideox("train", "toybox-vae", "--out", "vae", *SIZE, *SHORT_RUN, *crops)
    small = ["vae=vae", "transformer.num_layers=1", "run.batch_size=4", "sampling.interval=0"]
    cogvideox("train", "toybox", "--out", "run", *SIZE, *SHORT_RUN, *small)

    cogvideox("generate", PROMPT, "--model", "run/model", "-o", "x.mp4", "--seed", "0", "--num-inference-steps", "2")
    video = Video.load("x.mp4")
    assert video.frames.shape == (9, 32, 32, 3)
    assert json.loads((tmp_path / "x.json").read_text())["prompt"] == PROMPT

    verdict = judge_clip(torch.from_numpy(video.frames), parse_prompt(PROMPT))
    assert set(verdict) == {"color", "shape", "motion", "background"}

    # The model folder of a run can also be loaded from Python.
    frames = CogVideoX.from_pretrained("run/model").generate(PROMPT, seed=0, num_frames=5).frames
    assert frames.shape == (5, 32, 32, 3)
