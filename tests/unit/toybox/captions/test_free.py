"""Free captions are true, varied, and short enough for the text length of the pair grammar."""

import re

import numpy as np

from cogvideox.text.tokenizer import train_toy_tokenizer
from cogvideox.toybox.captions.caption import caption_scene, caption_words, parse_prompt
from cogvideox.toybox.captions.core import STYLES
from cogvideox.toybox.captions.free import FREE_WORDS, caption_free
from cogvideox.toybox.scenes.grammar import TEXT_LENGTHS
from cogvideox.toybox.scenes.sampler import sample_scene

SCENES = [sample_scene(seed, "pair", seconds=2.0) for seed in range(600)]
CAPTIONS = [caption_free(scene, np.random.default_rng(seed)) for seed, scene in enumerate(SCENES)]
TOKENIZER = train_toy_tokenizer(caption_words("pair"), 448, num_sentinels=16)


def test_captions_of_one_toy_state_no_wrong_fact():
    """The parser does not know all nouns. Without one, it takes a toy's color for the floor's."""
    unseen = ("count", "pattern", "camera")
    for scene, text in zip(SCENES, CAPTIONS):
        if len(scene.toys) == 1 and re.search(r"\b(ball|sphere|orb|cube|box|block|cone)\b", text):
            named = {name: word for name, word in parse_prompt(text, "full").items() if name not in unseen}
            assert named.items() <= scene.facts.items(), text


def test_all_words_are_listed_except_names():
    for text in CAPTIONS:
        words = re.sub(r"\bnamed \w+", "named", text)
        assert set(re.findall(r"[a-z]+", words)) <= set(FREE_WORDS), text
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]|  ", words), text


def test_captions_are_varied():
    scene = SCENES[0]
    assert len({caption_free(scene, np.random.default_rng(seed)) for seed in range(100)}) > 90


def test_an_image_has_no_motion():
    for seed, scene in enumerate(SCENES[:200]):
        text = caption_scene(scene, "free", seed, image=True)
        assert not any(name.startswith("motion") for name in parse_prompt(text, "full")), text


def test_captions_of_all_styles_fit_the_text_length():
    texts = [caption_scene(scene, style, seed) for seed, scene in enumerate(SCENES) for style in STYLES] + CAPTIONS
    TOKENIZER.encode(texts, TEXT_LENGTHS["pair"])  # a longer text raises


def test_known_words_are_single_tokens():
    assert all(len(TOKENIZER.token_ids(word)) == 1 for word in caption_words("pair"))
