"""The toybox suite: held-out prompts of the built-in world. It needs no external weights."""

from cogvideox.errors import UserError
from cogvideox.evaluation.scorer import Item
from cogvideox.evaluation.suite import Suite, SuiteOptions, check_settings, numbered
from cogvideox.evaluation.toybox.prompts import held_out_prompts
from cogvideox.evaluation.toybox.scorer import ToyboxFacts
from cogvideox.toybox.captions.caption import parse_prompt

NUM_PROMPTS = 100
"""Default number of prompts of each set."""
MAX_PROMPTS = 2000
"""Maximum number; there are 2400 different prompts of the set "word order"."""


def toybox_suite(options: SuiteOptions) -> Suite:
    """Build the suite. Its groups are the sets of `toybox.prompts`.

    Args:
        options: `settings` may have `groups`, a comma-separated choice of sets.

    Raises:
        UserError: an option that the suite does not have, or an unknown group.
    """
    check_settings("toybox", options, ("groups",))
    if options.prompts is not None:
        raise UserError(
            "the toybox suite has its own prompts: remove --prompts; --num-prompts and --seed select among them"
        )
    if options.num_prompts is not None and options.num_prompts > MAX_PROMPTS:
        raise UserError(f"the toybox suite has at most {MAX_PROMPTS} prompts per set, not {options.num_prompts}")
    sets = held_out_prompts(NUM_PROMPTS if options.num_prompts is None else options.num_prompts, options.seed)
    groups = [name.strip() for name in options.settings["groups"].split(",")] if options.settings else list(sets)
    for name in groups:
        if name not in sets:
            raise UserError(f"unknown group {name!r} of the toybox suite: choose from {', '.join(sets)}")
    prompts = [
        Item("", prompt.prompt, group, info={"facts": dict(prompt.facts), "grammar": prompt.grammar})
        for group in groups
        for prompt in sets[group]
    ]
    items = numbered(prompts, options.videos_per_prompt or 1, options.seed)
    return Suite("toybox", items, (ToyboxFacts(),), item_of, prompt_settings=("groups",))


def item_of(prompt: str) -> Item | None:
    """Return the item of a free-form prompt; None if it names no fact of the toy world."""
    facts = parse_prompt(prompt, "full")
    return Item("", prompt, info={"facts": facts, "grammar": "full"}) if facts else None
