import re

import pytest

from cogvideox.errors import UserError
from cogvideox.text.tokenizer import train_toy_tokenizer
from cogvideox.toybox.captions.caption import caption_scene, caption_words, parse_prompt, sample_prompts
from cogvideox.toybox.captions.core import CORE_WORDS, MAX_WORDS, STYLES
from cogvideox.toybox.captions.full import FULL_MAX_WORDS, FULL_WORDS
from cogvideox.toybox.scenes.grammar import TEXT_LENGTHS, is_held_out
from cogvideox.toybox.scenes.sampler import sample_scene

SCENES = [sample_scene(seed, "full") for seed in range(500)]
DEFAULTS = {"camera": "still", "light": "day", "pattern": "plain"}


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("image", [False, True])
def test_captions_are_short_and_true(style: str, image: bool):
    for seed, scene in enumerate(SCENES):
        text = caption_scene(scene, style, seed, image=image)
        words = re.findall(r"[a-z]+", text)
        assert len(words) <= FULL_MAX_WORDS and set(words) <= set(FULL_WORDS), text
        assert re.fullmatch(r"[a-z ,.]+", text) and "  " not in text
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", text), text
        named = parse_prompt(text, "full")
        assert {"color", "shape", "count"} <= set(named), text
        assert named.items() <= scene.facts.items(), text
        assert not (image and {"camera", *(name for name in named if "motion" in name)} & set(named)), text


@pytest.mark.parametrize("style", ["plain", "dense"])
def test_complete_captions_omit_only_defaults(style: str):
    for seed, scene in enumerate(SCENES):
        named = parse_prompt(caption_scene(scene, style, seed, complete=True), "full")
        assert scene.facts.items() - named.items() <= DEFAULTS.items()


def test_the_longest_caption_has_the_documented_length():
    """Three orbiting toys, on the floor with the longest name."""
    scenes = [
        sample_scene(seed, "full", count="three", motion="orbit", background="cyan", pattern="striped", size="small")
        for seed in range(60)
    ]
    longest = max(
        len(re.findall(r"[a-z]+", caption_scene(scene, style, seed)))
        for scene in scenes
        for seed in range(10)
        for style in STYLES
    )
    assert 30 < longest <= FULL_MAX_WORDS


@pytest.mark.parametrize("grammar", ["core", "full"])
def test_captions_fit_the_text_length_of_their_grammar(grammar: str):
    tokenizer = train_toy_tokenizer(caption_words(grammar), 256)
    texts = [
        caption_scene(sample_scene(seed, grammar), style, seed, complete=True) for seed in range(40) for style in STYLES
    ]
    tokens = (tokenizer.encode(texts, TEXT_LENGTHS[grammar]) != 0).sum(dim=1).tolist()  # a longer text raises
    # One token per word, period and comma, and one for the end, so the longest captions fit too.
    assert tokens == [len(re.findall(r"[a-z]+|[,.]", text)) + 1 for text in texts]
    marks = {"core": 2, "full": 5}[grammar]
    assert max(len(re.findall(r"[,.]", text)) for text in texts) <= marks
    assert {"core": MAX_WORDS, "full": FULL_MAX_WORDS}[grammar] + marks + 1 == TEXT_LENGTHS[grammar]


def test_identical_toys_are_counted_and_equal_motions_share_a_verb():
    identical = next(scene for scene in SCENES if len(scene.toys) == 2 and len({toy.facts for toy in scene.toys}) == 1)
    assert caption_scene(identical, "short", 1).startswith("two ")
    several = [scene for scene in SCENES if len({toy.facts for toy in scene.toys}) == 3]
    resting = next(scene for scene in several if {toy.motion for toy in scene.toys} == {"still"})
    assert len(re.findall(r"\b(?:stay|stand|remain)\b", caption_scene(resting, "plain", 3))) == 1


def test_caption_words_of_each_grammar():
    assert caption_words("core") == CORE_WORDS and caption_words("full") == FULL_WORDS
    with pytest.raises(UserError, match="choose one of core, full"):
        caption_words("grand")


def test_evaluation_prompts_are_held_out_scenes():
    prompts = sample_prompts(40, seed=1, grammar="full")
    assert prompts == sample_prompts(40, seed=1, grammar="full")
    assert all(
        is_held_out(scene) and parse_prompt(text, "full").items() <= scene.facts.items() for text, scene in prompts
    )


@pytest.mark.parametrize(
    ("prompt", "facts"),
    [
        ("A crimson ball drifting right.", {"color": "red", "shape": "ball", "motion": "right", "count": "one"}),
        ("two cubes", {"shape": "cube", "shape 2": "cube", "count": "two"}),
        ("cubes", {"shape": "cube"}),
        ("a white ball on a black floor", {"color": "white", "shape": "ball", "background": "black", "count": "one"}),
        ("a red star on white", {"color": "red", "shape": "star", "background": "white", "count": "one"}),
        (
            "a ball and a cube stay still while the camera zooms in",
            {
                "shape": "ball",
                "motion": "still",
                "shape 2": "cube",
                "motion 2": "still",
                "count": "two",
                "camera": "zoom in",
            },
        ),
        (
            "a teal ring and a star. the ring moves left, the star spins in place.",
            {
                "color": "teal",
                "shape": "ring",
                "motion": "left",
                "shape 2": "star",
                "motion 2": "spin",
                "count": "two",
            },
        ),
        (
            "spinning, a cube at night on a floor with stripes",
            {"shape": "cube", "motion": "spin", "count": "one", "light": "night", "pattern": "striped"},
        ),
        (
            "the camera moves to the left over three small black cones",
            {
                "camera": "pan left",
                "count": "three",
                "color": "black",
                "shape": "cone",
                "size": "small",
                "color 2": "black",
                "shape 2": "cone",
                "size 2": "small",
                "color 3": "black",
                "shape 3": "cone",
                "size 3": "small",
            },
        ),
        ("a ball gets bigger", {"shape": "ball", "motion": "grow", "count": "one"}),
        ("a ball on the left", {"shape": "ball", "count": "one"}),
        ("a ball comes from the left", {"shape": "ball", "motion": "right", "count": "one"}),
        ("a gray ball on a red floor", {"color": "gray", "shape": "ball", "background": "red", "count": "one"}),
        ("something red", {}),
        ("a dog", {}),
    ],
)
def test_free_form_prompts_are_parsed(prompt: str, facts: dict[str, str]):
    assert parse_prompt(prompt, "full") == facts


def test_more_than_three_toys_are_counted():
    assert parse_prompt("five red balls", "full")["count"] == "five"
    assert parse_prompt("six red balls and two cubes", "full")["count"] == "six"
