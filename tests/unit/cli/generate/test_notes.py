"""Notes on prompts outside the world of the shipped model."""

import pytest

from cogvideox.cli.generate.jobs import _unknown_words_note
from cogvideox.pretrained.model_spec import read_spec


def test_unknown_words_of_the_shipped_model_are_noted(run):
    result = run("generate", "a panda moves left", "--plan")
    assert result.status == 0 and result.err.count("note:") == 1, result
    assert "the shipped model was trained on captions of toys only" in result.err
    assert 'it does not know "panda"' in result.err


@pytest.mark.parametrize("prompt", ["the two red balls are on a grey floor", "a huge blue cube that rises"])
def test_prompts_of_the_toy_world_have_no_note(run, prompt):
    assert run("generate", prompt, "--plan").err == ""


def test_other_models_and_loras_have_no_note(model):
    assert _unknown_words_note("a panda", read_spec(model)) is None
