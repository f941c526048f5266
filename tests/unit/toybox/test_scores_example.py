"""The prompts of `examples/toybox_scores.py`."""

from cogvideox.toybox.captions.caption import parse_prompt
from cogvideox.toybox.scenes.grammar import is_withheld, is_withheld_triple
from examples.toybox_scores import PATHS, two_toy_prompts, word_order_prompts

NUMBER = 300


def triples(facts):
    for suffix in ("", " 2"):
        if f"color{suffix}" in facts:
            yield tuple(facts[f"{name}{suffix}"] for name in ("color", "shape", "motion"))


def test_word_order_prompts_are_held_out_and_different():
    prompts = word_order_prompts(NUMBER, 100)
    texts = [prompt for prompt, _ in prompts]
    assert len(set(texts)) == NUMBER and prompts == word_order_prompts(NUMBER, 100)
    assert all(facts == parse_prompt(prompt, "full") for prompt, facts in prompts)
    assert all(any(is_withheld_triple(*triple) for triple in triples(facts)) for _, facts in prompts)
    paths = [text for text in texts if " from " in text]
    assert len(paths) == 96 and sum("color 2" not in facts for _, facts in prompts) == 96
    # Both meanings of the words occur, so that a model that ignores their order is wrong in many cases.
    assert all(sum(path in text for text in paths) > 10 for path in PATHS.values())


def test_two_toy_prompts_are_of_different_toys():
    prompts = two_toy_prompts(NUMBER, 100)
    assert len({prompt for prompt, _ in prompts}) == NUMBER
    for prompt, scene in prompts:
        assert is_withheld(scene) and len({toy.facts for toy in scene.toys}) == 2
        facts = parse_prompt(prompt, "full")
        assert len(list(triples(facts))) == 2 and all(scene.facts[name] == word for name, word in facts.items())
