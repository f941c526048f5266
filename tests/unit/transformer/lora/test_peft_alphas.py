"""Alpha by peft's patterns: same matches as in peft, without patterns that take exponential time."""

import re

import pytest

from cogvideox.transformer.lora.peft_alphas import PeftAlphas

LAYERS = [
    f"transformer_blocks.{n}.{name}" for n in (0, 1, 11, 29) for name in ("attn1.to_q", "attn1.to_out.0", "ff.net.2")
]
PATTERNS = (
    *LAYERS,
    *(f"^{layer}" for layer in LAYERS[:3]),
    *(
        "to_q",
        "attn1.to_q",
        "0",
        r"attn1\.to_q",
        "^attn1.to_q",
        "to_q$",
        "q",
        "_q",
        r"^transformer_blocks\.1\.ff\.net\.2$",
    ),
    *(r".*attn1.*", r"transformer_blocks\.\d+\.attn1\.to_q", r"transformer_blocks.[0-9].ff.net.2", r".*\.to_(q|k|v)"),
    *(r"transformer_blocks\.(0|1)\..*", r"attn1\.to_.*", r"\d+", r".*\.\d+\.ff\..+", r"(?:attn1|ff).*"),
)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_matches_the_same_layers_as_in_peft(pattern):
    alpha_of = PeftAlphas({"lora_alpha": 1, "alpha_pattern": {pattern: 8}})
    for layer in LAYERS:
        expected = 8.0 if re.match(rf"(.*\.)?({pattern})$", layer) else 1.0
        assert alpha_of(layer, 4) == expected, layer


def test_the_first_matching_pattern_applies_and_alpha_defaults_to_rank():
    alpha_of = PeftAlphas({"alpha_pattern": {r".*\.to_q": 2, "attn1.to_q": 3, "to_out.0": 4}})
    assert [alpha_of(layer, 9) for layer in LAYERS[:3]] == [2.0, 4.0, 9.0]
    assert PeftAlphas({"lora_alpha": 4, "use_rslora": True})(LAYERS[0], 16) == 16.0


EXPLOSIVE = [
    "(([a-z0-9_.])*)*!",
    "(a+)+",
    "(.*)*x",
    ".*.*.*.*.*x",
    "(a|a)*x",
    "(?:.+)+",
    "a{1,99}",
    "(?=x)",
    "(",
    "\\1",
]


@pytest.mark.parametrize("pattern", EXPLOSIVE)
def test_a_pattern_with_exponential_time_is_rejected(pattern):
    with pytest.raises(ValueError, match="is neither a name nor a simple expression"):
        PeftAlphas({"alpha_pattern": {pattern: 1}})(LAYERS[0], 4)


def test_matching_many_patterns_is_fast():
    alphas = {f"transformer_blocks.{n}.attn1.to_q": 1 for n in range(100_000)}
    alpha_of = PeftAlphas({"alpha_pattern": alphas})
    assert [alpha_of(layer, 4) for layer in LAYERS * 100].count(1.0) == 400
    slowest = "[a-z]*" * 3 + "x"
    alpha_of = PeftAlphas({"alpha_pattern": {slowest + "b" * n: 1 for n in range(100)}})
    alpha_of("a" * 40, 4)
    with pytest.raises(ValueError, match="101 expressions; at most 100"):
        PeftAlphas({"alpha_pattern": {slowest + "b" * n: 1 for n in range(101)}})("a", 4)
