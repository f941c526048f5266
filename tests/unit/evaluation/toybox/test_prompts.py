"""The held-out prompts of the toybox suite."""

from cogvideox.evaluation.toybox.prompts import PATHS, core_prompts, two_toy_prompts, word_order_prompts
from cogvideox.toybox.captions.caption import parse_prompt
from cogvideox.toybox.scenes.grammar import is_held_out_triple

NUMBER = 300


def triples(facts):
    for suffix in ("", " 2"):
        if f"color{suffix}" in facts:
            yield tuple(facts[f"{name}{suffix}"] for name in ("color", "shape", "motion"))


def test_core_prompts_name_all_facts():
    for prompt in core_prompts(NUMBER, 100):
        assert prompt.facts == parse_prompt(prompt.prompt) and len(prompt.facts) == 5
        assert all(is_held_out_triple(*triple) for triple in triples(prompt.facts))


def test_word_order_prompts_are_held_out_and_different():
    prompts = word_order_prompts(NUMBER, 100)
    texts = [prompt.prompt for prompt in prompts]
    assert len(set(texts)) == NUMBER and prompts == word_order_prompts(NUMBER, 100)
    assert all(prompt.facts == parse_prompt(prompt.prompt, "full") for prompt in prompts)
    assert all(any(is_held_out_triple(*triple) for triple in triples(prompt.facts)) for prompt in prompts)
    paths = [text for text in texts if " from " in text]
    assert len(paths) == 96 and sum("color 2" not in prompt.facts for prompt in prompts) == 96
    # Both meanings of the words occur, so that a model that ignores their order is wrong in many cases.
    assert all(sum(path in text for text in paths) > 10 for path in PATHS.values())


def test_two_toy_prompts_are_of_different_toys():
    prompts = two_toy_prompts(NUMBER, 100)
    assert len({prompt.prompt for prompt in prompts}) == NUMBER
    for prompt in prompts:
        assert any(is_held_out_triple(*triple) for triple in triples(prompt.facts))
        facts = parse_prompt(prompt.prompt, "full")
        assert len(list(triples(facts))) == 2 and all(prompt.facts[name] == word for name, word in facts.items())
