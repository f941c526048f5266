"""Pretrained vision encoders of the video captioner."""

import pytest

from cogvideox.curation.captions.video_captioner.config import VisionConfig
from cogvideox.curation.captions.video_captioner.vision import build_vision_encoder
from cogvideox.errors import UserError


def test_frames_of_a_size_that_a_pretrained_encoder_does_not_accept_are_an_error(tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {"image_size": 24, "patch_size": 4, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.CLIPVisionConfig(hidden_size=16, intermediate_size=32, **sizes)
    transformers.CLIPVisionModel(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"vision\.size=48: set vision\.size=24"):
        build_vision_encoder(VisionConfig(path=str(tmp_path)))
