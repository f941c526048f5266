"""Golden digests of the core grammar, which is frozen: shipped latents, tokenizers and scores depend on it."""

import hashlib

from cogvideox.toybox.captions.caption import caption_scene, parse_prompt, sample_prompts
from cogvideox.toybox.captions.core import CORE_WORDS, STYLES
from cogvideox.toybox.scenes.sampler import sample_scene

SPLITS = ("all", "training", "held_out")


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


def test_scenes_are_frozen():
    scenes = [sample_scene(seed, "core", split=split) for split in SPLITS for seed in range(100)]
    scenes += [sample_scene(seed, "core", seconds=0.0) for seed in range(50)]
    scenes += [sample_scene(seed, "core", color="red", motion="up") for seed in range(50)]
    assert all(len(scene.toys) == 1 for scene in scenes)
    assert digest(*map(numbers, scenes)) == "510c39bfcc907a5f"


def test_captions_are_frozen():
    scenes = [sample_scene(seed) for seed in range(100)]
    texts = [
        caption_scene(s, style, seed, image=i, complete=c)
        for seed, s in enumerate(scenes)
        for style in STYLES
        for i in (False, True)
        for c in (False, True)
    ]
    assert digest(texts) == "9fe2017e9fc5d05c"
    assert digest([text for text, _ in sample_prompts(100, seed=100)]) == "c60eac04785f4d52"
    assert digest([sorted(parse_prompt(text).items()) for text in texts]) == "46c0789ba4c0336c"


def test_the_vocabulary_is_frozen():
    assert digest(CORE_WORDS) == "8730d263f725d0b1"
