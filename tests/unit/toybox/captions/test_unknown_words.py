"""Words that are outside the toy world."""

import pytest

from cogvideox.toybox.captions.caption import sample_prompts
from cogvideox.toybox.captions.unknown_words import unknown_words


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("A panda plays the guitar; the panda is happy", ["panda", "plays", "guitar", "happy"]),
        ("a huge red marble rises from the floor", []),
        ("there are 3 balls and I can count them, with their shadows", ["count", "shadows"]),
        ("an orange-blue cube", []),
        ("the ball's color doesn't change, and it isn't the cubes' color", ["change"]),
        ("the ball stops, then it’s red; they’ll stop, won’t they?", []),
        ("a 'panda' or the panda's ball at two o'clock", ["panda", "o'clock"]),
        ("een rode bal", ["een", "rode", "bal"]),
        ("一只熊猫", ["一只熊猫"]),
        ("", []),
    ],
)
def test_unknown_words(prompt, words):
    assert unknown_words(prompt) == words


@pytest.mark.parametrize("grammar", ["core", "full", "pair"])
@pytest.mark.parametrize("style", ["short", "plain", "dense"])
def test_captions_have_no_unknown_words(grammar, style):
    for prompt, _ in sample_prompts(50, grammar=grammar, style=style, split="all"):
        assert unknown_words(prompt) == [], prompt
