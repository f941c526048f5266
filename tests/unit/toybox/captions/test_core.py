import re

import pytest

from cogvideox.errors import UserError
from cogvideox.toybox.captions.caption import caption_scene, parse_prompt, sample_prompts
from cogvideox.toybox.captions.core import CORE_WORDS, MAX_WORDS, STYLES
from cogvideox.toybox.scenes.grammar import is_held_out
from cogvideox.toybox.scenes.sampler import sample_scene


def captioned_scenes(style: str, **options):
    for seed in range(700):
        scene = sample_scene(seed)
        yield scene, caption_scene(scene, style, seed, **options)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("image", [False, True])
def test_captions_are_short_and_true(style: str, image: bool):
    longest = 0
    for scene, text in captioned_scenes(style, image=image):
        words = re.findall(r"[a-z]+", text)
        longest = max(longest, len(words))
        assert set(words) <= set(CORE_WORDS)
        assert re.fullmatch(r"[a-z ,.]+", text) and "  " not in text
        named = parse_prompt(text)
        assert {"color", "shape"} <= set(named)
        assert named.items() <= scene.facts.items(), text
        assert not (image and "motion" in named), text
    assert longest <= MAX_WORDS


def test_styles_omit_facts_at_their_rates():
    named = {style: [parse_prompt(text) for _, text in captioned_scenes(style)] for style in STYLES}

    def fraction(style: str, fact: str) -> float:
        return sum(fact in facts for facts in named[style]) / len(named[style])

    assert 0.3 < fraction("short", "size") < 0.5 and fraction("short", "motion") > 0.8
    assert (
        fraction("plain", "background") > 0.8 and fraction("plain", "size") > 0.8 and fraction("plain", "motion") == 1.0
    )
    assert all(fraction("dense", fact) == 1.0 for fact in ("size", "motion", "background"))


def test_the_same_seed_gives_the_same_caption_and_seeds_differ():
    scene = sample_scene(4)
    assert caption_scene(scene, "dense", 9) == caption_scene(scene, "dense", 9)
    assert len({caption_scene(scene, "plain", seed) for seed in range(50)}) > 25


def test_articles_match_the_next_word():
    scene = sample_scene(4, color="orange")
    texts = [caption_scene(scene, "short", seed) for seed in range(200)]
    assert any("an orange" in text for text in texts)
    assert not any(re.search(r"\ba [aeiou]|\ban [^aeiou]", text) for text in texts)


def test_unknown_styles_are_rejected():
    with pytest.raises(UserError, match="short, plain, dense"):
        caption_scene(sample_scene(0), "verse")


@pytest.mark.parametrize(
    ("prompt", "facts"),
    [
        ("A crimson ball drifting right.", {"color": "red", "shape": "ball", "motion": "right"}),
        ("two cubes", {"shape": "cube"}),
        ("a blue cone on a light blue floor", {"color": "blue", "shape": "cone", "background": "cyan"}),
        (
            "a tiny royal blue box from left to right",
            {"size": "small", "color": "blue", "shape": "cube", "motion": "right"},
        ),
        (
            "the big golden sphere does not move",
            {"size": "large", "color": "yellow", "shape": "ball", "motion": "still"},
        ),
        ("a dog", {}),
    ],
)
def test_free_form_prompts_are_parsed(prompt: str, facts: dict[str, str]):
    assert parse_prompt(prompt) == facts


def test_evaluation_prompts_name_every_fact_of_held_out_scenes():
    prompts = sample_prompts(100, seed=1)
    assert prompts == sample_prompts(100, seed=1)
    for text, scene in prompts:
        assert parse_prompt(text) == scene.facts and is_held_out(scene)
