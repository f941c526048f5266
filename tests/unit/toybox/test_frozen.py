"""The core grammar is frozen: latents, the tokenizer and the scores of shipped models were made with it."""

import hashlib

from cogvideox.toybox.captions.caption import ALL_WORDS, STYLES, caption, parse, sample_prompts
from cogvideox.toybox.scenes.sample_core import draw

SIDES = ("all", "training", "withheld")


def digest(*values: object) -> str:
    return hashlib.sha256(repr(values).encode()).hexdigest()[:16]


def numbers(scene: object) -> tuple[object, ...]:
    toy = scene.toy
    return (
        scene.background,
        scene.seconds,
        toy.color,
        toy.shape,
        toy.size,
        toy.motion,
        toy.x,
        toy.y,
        toy.radius,
        toy.speed,
    )


def test_scenes_are_drawn_as_they_were():
    scenes = [draw(seed, "core", side=side) for side in SIDES for seed in range(100)]
    scenes += [draw(seed, "core", seconds=0.0) for seed in range(50)]
    scenes += [draw(seed, "core", color="red", motion="up") for seed in range(50)]
    assert all(len(scene.toys) == 1 for scene in scenes)
    assert digest(*map(numbers, scenes)) == "510c39bfcc907a5f"


def test_captions_say_what_they_said():
    scenes = [draw(seed) for seed in range(100)]
    texts = [
        caption(s, style, seed, image=i, complete=c)
        for seed, s in enumerate(scenes)
        for style in STYLES
        for i in (False, True)
        for c in (False, True)
    ]
    assert digest(texts) == "9fe2017e9fc5d05c"
    assert digest([text for text, _ in sample_prompts(100, seed=100)]) == "c60eac04785f4d52"
    assert digest([sorted(parse(text).items()) for text in texts]) == "46c0789ba4c0336c"


def test_the_words_of_the_shipped_tokenizer_stay():
    assert digest(ALL_WORDS) == "8730d263f725d0b1"
