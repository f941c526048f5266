import re

import pytest

from cogvideox.errors import UserError
from cogvideox.text.tokenizer import train_toy_tokenizer
from cogvideox.toybox.captions.caption import ALL_WORDS, MAX_WORDS, STYLES, caption, parse, sample_prompts, words
from cogvideox.toybox.captions.describe import FULL_MAX_WORDS, FULL_WORDS
from cogvideox.toybox.scenes.grammar import GRAMMARS, TEXT_LENGTHS, withheld
from cogvideox.toybox.scenes.sample_core import draw

SCENES = [draw(seed, "full") for seed in range(500)]
OBVIOUS = {"camera": "still", "light": "day", "pattern": "plain"}


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("image", [False, True])
def test_captions_are_short_plain_and_true(style: str, image: bool):
    for seed, scene in enumerate(SCENES):
        text = caption(scene, style, seed, image=image)
        found = re.findall(r"[a-z]+", text)
        assert len(found) <= FULL_MAX_WORDS and set(found) <= set(FULL_WORDS), text
        assert re.fullmatch(r"[a-z ,.]+", text) and "  " not in text
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", text), text
        named = parse(text, "full")
        assert {"color", "shape", "count"} <= set(named), text
        assert named.items() <= scene.facts.items(), text
        assert not (image and {"camera", *(name for name in named if "motion" in name)} & set(named)), text


@pytest.mark.parametrize("style", ["plain", "dense"])
def test_complete_captions_are_silent_only_about_what_goes_without_saying(style: str):
    for seed, scene in enumerate(SCENES):
        named = parse(caption(scene, style, seed, complete=True), "full")
        assert scene.facts.items() - named.items() <= OBVIOUS.items()


def test_the_longest_caption_is_no_longer_than_it_says():
    """Three toys, two of them orbiting, on the floor with the longest name, and all the obvious said."""
    scenes = [
        draw(seed, "full", count="three", motion="orbit", background="cyan", pattern="striped", size="small")
        for seed in range(60)
    ]
    longest = max(
        len(re.findall(r"[a-z]+", caption(scene, style, seed)))
        for scene in scenes
        for seed in range(10)
        for style in STYLES
    )
    assert 30 < longest <= FULL_MAX_WORDS


@pytest.mark.parametrize("grammar", GRAMMARS)
def test_every_caption_fits_into_the_text_length_of_its_grammar(grammar: str):
    tokenizer = train_toy_tokenizer(words(grammar), 256)
    texts = [caption(draw(seed, grammar), style, seed, complete=True) for seed in range(40) for style in STYLES]
    tokens = (tokenizer.encode(texts, TEXT_LENGTHS[grammar]) != 0).sum(dim=1).tolist()  # a longer text is refused
    # A token for each word, point and comma, and one for the end: so the longest captions fit too.
    assert tokens == [len(re.findall(r"[a-z]+|[,.]", text)) + 1 for text in texts]
    marks = {"core": 2, "full": 5}[grammar]
    assert max(len(re.findall(r"[,.]", text)) for text in texts) <= marks
    assert {"core": MAX_WORDS, "full": FULL_MAX_WORDS}[grammar] + marks + 1 == TEXT_LENGTHS[grammar]


def test_toys_that_are_alike_are_counted_and_those_that_do_the_same_share_a_verb():
    alike = next(scene for scene in SCENES if len(scene.toys) == 2 and len({toy.kind for toy in scene.toys}) == 1)
    assert caption(alike, "short", 1).startswith("two ")
    several = [scene for scene in SCENES if len({toy.kind for toy in scene.toys}) == 3]
    resting = next(scene for scene in several if {toy.motion for toy in scene.toys} == {"still"})
    assert len(re.findall(r"\b(?:stay|stand|remain)\b", caption(resting, "plain", 3))) == 1


def test_words_belong_to_a_grammar():
    assert words("core") == ALL_WORDS and words("full") == FULL_WORDS
    with pytest.raises(UserError, match="there is core, full"):
        words("grand")


def test_evaluation_prompts_of_the_full_grammar():
    prompts = sample_prompts(40, seed=1, grammar="full")
    assert prompts == sample_prompts(40, seed=1, grammar="full")
    assert all(withheld(scene) and parse(text, "full").items() <= scene.facts.items() for text, scene in prompts)


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
def test_free_prompts_are_understood(prompt: str, facts: dict[str, str]):
    assert parse(prompt, "full") == facts


def test_more_toys_than_the_world_holds_are_counted_too():
    assert parse("five red balls", "full")["count"] == "five"
    assert parse("six red balls and two cubes", "full")["count"] == "six"
