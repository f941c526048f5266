"""Words of a prompt that no caption of the toy world contains."""

import re

from cogvideox.toybox.captions.caption import caption_words
from cogvideox.toybox.captions.core import parse_core_prompt
from cogvideox.toybox.captions.full_parser import NUMBERS, parse_full_prompt

_FUNCTION_WORDS = """
a an the and or but nor so of in on at to from by for with without into onto out off over under above below between
among near behind beside around through during after before until against across along away about like is are was were
be being been am do does did has have had having will would can could should may might must this that these those it its
he him his she her they them their we us our you your i me my who whose which what where when while as if than then too
very not no some any each every all both other another one there here just only also again still up down let cannot
color colors colour colours colored coloured size sizes stop stops stopped stopping
"""
"""Function words, and words for what the captions describe."""

_CONTRACTIONS = r"'(s|m|d|re|ve|ll)?$"
"""Endings of a word that are other words, or the possessive."""


def unknown_words(prompt: str) -> list[str]:
    """Return the words of a prompt that are in the captions of no grammar, and that no parser of prompts understands.

    Function words, contractions with "not" and numbers are left out. Each word is returned once, in the order of the
    prompt.
    """
    known = {*_FUNCTION_WORDS.split(), *caption_words("pair"), *NUMBERS}
    text = prompt.lower().replace("’", "'")
    spelled = (word for word in re.findall(r"[^\W\d_]+(?:'[^\W\d_]*)*", text) if not word.endswith("n't"))
    words = dict.fromkeys(re.sub(_CONTRACTIONS, "", word) for word in spelled)
    return [word for word in words if word not in known and not (parse_core_prompt(word) or parse_full_prompt(word))]
