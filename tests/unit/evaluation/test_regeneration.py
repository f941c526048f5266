"""Caption, regenerate, compare: a generator that follows captions agrees in all facts, and other captions do not."""

import numpy as np
import pytest

from cogvideox.curation.captions.captioned_folder import captioned_clips
from cogvideox.curation.captions.config import CaptionPipelineConfig, StageConfig
from cogvideox.curation.captions.run import caption_folder
from cogvideox.errors import UserError
from cogvideox.evaluation.regeneration import agreement, regenerate
from cogvideox.toybox.captions.caption import parse_prompt
from cogvideox.toybox.render.renderer import render_scene
from cogvideox.toybox.scenes.sampler import sample_scene
from cogvideox.video import io

NUM_CLIPS = 5


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    pytest.importorskip("cv2")
    folder, rng = tmp_path_factory.mktemp("clips"), np.random.default_rng(4)
    for number in range(NUM_CLIPS):
        io.write(folder / f"{number}.mp4", np.asarray(render_scene(sample_scene(rng, "core"), num_frames=9)), 8.0)
    output = tmp_path_factory.mktemp("captions")
    caption_folder(folder, output, CaptionPipelineConfig(short=StageConfig("toybox"), measure=()))
    return captioned_clips([str(output)])


def render(prompt: str, seed: int) -> np.ndarray:
    return np.asarray(render_scene(sample_scene(seed, "core", **parse_prompt(prompt)), num_frames=9))


def test_videos_of_complete_captions_show_the_facts_of_the_clips(clips):
    results = regenerate(clips, render, 8.0)
    scores, control = agreement(results), agreement(results, shift=1)
    assert len(results) == NUM_CLIPS and scores["all"].value == 1.0 and scores["all"].interval is not None
    assert control["all"].value < 0.5


def test_rejected_captions_count_as_wrong(clips):
    def reject(prompt: str, seed: int) -> np.ndarray:
        raise UserError("the prompt is too long")

    results = regenerate(clips, reject, 8.0)
    assert {result.error for result in results} == {"the prompt is too long"}
    assert agreement(results)["color"].value == 0.0
