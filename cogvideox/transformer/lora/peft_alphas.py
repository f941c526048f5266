"""LoRA alpha of each layer, from peft's configuration (`lora_alpha`, `alpha_pattern`, `use_rslora`).

The keys of `alpha_pattern` are regular expressions from an untrusted file, and matching with `re` can take exponential
time. So only layer names and simple expressions are supported: characters, `.`, `\\d`, character sets and groups of
alternatives, with at most three repetitions.
"""

import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any

_MAX_REPEATS = 3
_MAX_EXPRESSIONS = 100
_NAME = re.compile(r"\^?[\w.-]+\$?")
_SIMPLE = re.compile(r"\^?(?:[\w-]|(?:\\?\.|\\d|\[[\w-]+\])[*+]?|\((?:\?:)?(?:[\w|-]|\\?\.|\\d)+\))+\$?")


class PeftAlphas:
    """Function that returns the alpha of a layer from its name and rank.

    A pattern of `alpha_pattern` matches the end of a name, starting after a dot; the first matching pattern applies.
    For layers without a match, alpha is `lora_alpha`, or the rank if that is missing.

    Raises:
        ValueError: a pattern is not simple, or there are too many.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config

    @cached_property
    def _patterns(self) -> tuple[dict[str, tuple[int, Any]], list[tuple[int, re.Pattern[str], Any]]]:
        """Return alpha by name and by expression, each with its position in the file."""
        names, expressions = {}, []
        for order, (pattern, alpha) in enumerate((self._config.get("alpha_pattern") or {}).items()):
            name = pattern.replace("\\.", ".")
            if _NAME.fullmatch(name):
                names.setdefault(name.removesuffix("$"), (order, alpha))
            else:
                expressions.append((order, _compile(pattern), alpha))
        if len(expressions) > _MAX_EXPRESSIONS:
            raise ValueError(f"alpha_pattern has {len(expressions)} expressions; at most {_MAX_EXPRESSIONS} are read")
        return names, expressions

    def __call__(self, layer: str, rank: int) -> float:
        names, expressions = self._patterns
        starts = [0, *(dot.end() for dot in re.finditer(r"\.", layer))]
        suffixes = (f"^{layer}", *(layer[start:] for start in starts))
        matches = [names[suffix] for suffix in suffixes if suffix in names]
        for order, pattern, value in expressions:
            if any(pattern.fullmatch(layer, start) for start in starts):  # "^" matches only at the start of the name
                matches.append((order, value))
        alpha = min(matches, key=lambda match: match[0])[1] if matches else self._config.get("lora_alpha", rank)
        # With use_rslora the scale is alpha / sqrt(rank).
        return float(alpha) * rank**0.5 if self._config.get("use_rslora") else float(alpha)


def _compile(pattern: str) -> re.Pattern[str]:
    if not _SIMPLE.fullmatch(pattern) or pattern.count("*") + pattern.count("+") > _MAX_REPEATS:
        raise ValueError(f"the pattern {pattern[:60]!r} of alpha_pattern is neither a name nor a simple expression")
    return re.compile(pattern)
