"""Limits on untrusted files, and readers that raise UserError for any malformed content."""

import random
from contextlib import suppress
from dataclasses import dataclass

import pytest
import yaml

from cogvideox import config
from cogvideox.errors import UserError
from cogvideox.text.config import T5Config
from cogvideox.transformer.config import TransformerConfig
from cogvideox.untrusted.files import LIMITS, check_limit, limit, parse_json, parse_yaml, read_json, reading
from cogvideox.vae.config import VAEConfig

LAUGHS = "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" if i else "a0: &a0 x" for i in range(12))


@dataclass(frozen=True)
class Settings:
    steps: int = 1
    lr: float = 1e-3
    name: str = ""
    betas: tuple[float, ...] = ()


@pytest.mark.parametrize("name", LIMITS)
def test_limits_are_raised_by_environment_variables(monkeypatch, name):
    check_limit(name, LIMITS[name], "this")
    with pytest.raises(UserError, match=f"^this is above the limit of .*; COGVIDEOX_MAX_{name} raises it$"):
        check_limit(name, LIMITS[name] + 1, "this")
    monkeypatch.setenv(f"COGVIDEOX_MAX_{name}", "1e12")
    assert limit(name) == 10**12
    check_limit(name, LIMITS[name] + 1, "this")
    for wrong in ("", "many", "0", "-1", "inf", "nan"):
        monkeypatch.setenv(f"COGVIDEOX_MAX_{name}", wrong)
        with pytest.raises(UserError, match="must be a number of 1 or more"):
            limit(name)


@pytest.mark.parametrize("error", [ValueError("a\nb"), RecursionError(), MemoryError(), KeyError("k"), OSError()])
def test_whatever_a_reader_raises_is_one_sentence_that_names_the_file(error):
    with pytest.raises(UserError, match="cannot read x") as caught, reading("x.bin", "damaged"):
        raise error
    assert caught.value.__cause__ is error and "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_interruptions_pass_through_a_reader(error):
    with pytest.raises(error), reading("x.bin", "damaged"):
        raise error


@pytest.mark.parametrize("depth", [65, 900, 100_000])
@pytest.mark.parametrize("brackets", [("[", "]"), ('{"a":', "}")])
def test_depth_is_limited(depth, brackets):
    start, end = brackets
    for parse in (parse_json, parse_yaml):
        assert parse(start * 63 + "1" + end * 63)
        with pytest.raises(ValueError, match=r"nested|above the limit"):
            parse(start * depth + "1" + end * depth)


def test_few_aliases_are_allowed_and_many_are_not():
    assert parse_yaml("a: &a [1, 2]\nb: *a") == {"a": [1, 2], "b": [1, 2]}
    with pytest.raises(UserError, match=r"YAML with [0-9,]+ values after expansion of aliases is above the limit"):
        parse_yaml(LAUGHS)
    with pytest.raises(ValueError, match="an alias contains itself"):
        parse_yaml("&a [*a]")
    deep = "\n".join(f"a{i}: &a{i} [*a{i - 1}]" if i else "a0: &a0 x" for i in range(200))
    with pytest.raises(ValueError, match="nested more than"):
        parse_yaml(deep)


@pytest.mark.parametrize("text", ["[1]", "3", "null", "", "{", '{"a": 1' + "0" * 5000 + "}", "[" * 10**5])
def test_a_json_object_or_one_sentence(tmp_path, text):
    (tmp_path / "x.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"^cannot read .*x\.json: "):
        read_json(tmp_path / "x.json")


def test_json_may_have_a_byte_order_mark(tmp_path):
    for encoding in ("utf-8-sig", "utf-16"):
        (tmp_path / "x.json").write_text('{"a": "é"}', encoding=encoding)
        assert read_json(tmp_path / "x.json") == {"a": "é"}
    (tmp_path / "x.json").write_bytes(b'{"a": "\xe9"}')
    with pytest.raises(UserError, match="it is not UTF-8 text"):
        read_json(tmp_path / "x.json")


def test_the_size_of_text_files_is_limited(tmp_path, monkeypatch):
    monkeypatch.setenv("COGVIDEOX_MAX_TEXT_BYTES", "10")
    (tmp_path / "x.json").write_text('{"a": 10}')
    assert read_json(tmp_path / "x.json") == {"a": 10}
    (tmp_path / "x.json").write_text('{"a": 100}')
    assert read_json(tmp_path / "x.json") == {"a": 100}
    (tmp_path / "x.json").write_text('{"a": 1000}')
    for path in (tmp_path / "x.json", "/dev/zero"):
        with pytest.raises(UserError, match=r"more than 10 bytes is above the limit .* COGVIDEOX_MAX_TEXT_BYTES"):
            read_json(path)


def test_limits_above_64_bits_are_the_largest_that_libraries_take(monkeypatch):
    monkeypatch.setenv("COGVIDEOX_MAX_PIXELS", "1e30")
    assert 10**18 < limit("PIXELS") < 2**63


WORDS = (
    *("!!int x", "!!float x", "!!timestamp x", "!!binary x", "!!omap x", "!!set x", "!!bool x", "!!python/name:os.x"),
    *("2001-99-99", "1:99:99", "0x" + "f" * 5000, "1" * 5000, "1e999", ".nan", ".inf", "0b", "0o9"),
    *("~", "<<", "=", "%"),
    *("[" * 200, "{a: 1, a: 2}", "{[a]: b}", "&a [*a]", "*a", "? [a]", "- ", "|", ">", "'", '"\\x00"', '"\\ud800"'),
    *("a: b: c", "\t", "@", "`", "!", "!!", "&", "*", "--- 1\n--- 2", "\x07", "\ud800", "{<<: *x}", "\U0001f388"),
)


@pytest.mark.parametrize("name", ["steps", "lr", "name", "betas"])
@pytest.mark.parametrize("word", WORDS, ids=range(len(WORDS)))
def test_any_word_is_a_value_or_one_sentence(name, word):
    """Each word alone, and between other letters."""
    rng = random.Random(repr(word))
    for text in (word, f"[{word}]", f"{{a: {word}}}", word[: rng.randrange(len(word) + 1)], word * 2):
        with suppress(UserError):
            config.override(Settings(), {name: text})


@pytest.mark.parametrize("word", WORDS, ids=range(len(WORDS)))
@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_any_file_is_settings_or_one_sentence(tmp_path, word, suffix):
    path = tmp_path / f"x{suffix}"
    for text in (word, f"steps: {word}", f'{{"name": {word}}}', f'{{"name": "{word}"}}'):
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        with suppress(UserError):
            yaml.safe_dump(config.to_dict(config.load(Settings, path)))


@pytest.mark.parametrize(
    ("build", "error"),
    [
        (lambda: TransformerConfig(num_layers=10**9), "num_layers=1000000000 of the transformer .* at most 1,000 "),
        (lambda: TransformerConfig(sample_frames=10**7), "sample_frames=10000000 of the transformer"),
        (lambda: VAEConfig(layers_per_block=2_000), "layers_per_block=2000 of the VAE"),
        (lambda: VAEConfig(block_out_channels=(32,) * 1_001), "block_out_channels of the VAE has 1,001 values"),
        (lambda: VAEConfig(block_out_channels=(32, 32, 32, 32 * 10**6)), "block_out_channels=32000000 of the VAE"),
        (lambda: T5Config(vocab_size=10**8), "vocab_size=100000000 of the text encoder .* at most 1,000,000 "),
    ],
)
def test_networks_of_absurd_sizes_are_refused_before_they_are_built(build, error):
    with pytest.raises(UserError, match=error):
        build()
