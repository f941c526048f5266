"""The tokenizer: ids of fixed length, the small vocabulary, files and errors."""

import json
import subprocess
import sys

import pytest
import torch

from cogvideox.errors import UserError
from cogvideox.text import normalization, sentencepiece_model
from cogvideox.text.tokenizer import Tokenizer, train_toy_tokenizer

CAPTIONS = [
    "A small red ball moves left on a blue floor.",
    "a large green cube stands still, and a yellow cone slides up",
    "the red ball moves right",
]


@pytest.fixture(scope="module")
def toy() -> Tokenizer:
    return train_toy_tokenizer(CAPTIONS)


def split(tokenizer: Tokenizer, prompt: str) -> list[str]:
    ids = tokenizer.encode(prompt, 200)[0]
    return [tokenizer.pieces[i][0] for i in ids[ids != 0].tolist()]


# ---- ids ----


def test_ids_have_an_end_token_and_padding(toy):
    ids = toy.encode(["a red ball", ""], 6)
    assert ids.dtype == torch.long
    word_ids = [[piece for piece, _ in toy.pieces].index(word) for word in ("▁a", "▁red", "▁ball")]
    assert ids.tolist() == [[*word_ids, 1, 0, 0], [1, 0, 0, 0, 0, 0]]


def test_one_prompt_is_a_batch_of_one(toy):
    assert torch.equal(toy.encode("a red ball", 6), toy.encode(["a red ball"], 6))


def test_a_prompt_may_have_the_full_length(toy):
    assert toy.encode("a red ball", 4).shape == (1, 4)


def test_error_for_a_long_prompt_has_its_length_and_the_last_word_that_fits(toy):
    with pytest.raises(UserError, match=r"has 6 tokens, but the limit is 4: .* 'ball' \(word 3\)"):
        toy.encode("a red ball moves left", 4)
    with pytest.raises(UserError, match="no word fits"):
        toy.encode("a red ball", 1)


def test_prompts_cut_after_the_named_word_fit(toy):
    prompt = "A red, unknown-word ball…  moves\tleft; 漢字 «quoted» on É a ½ blue floor!"
    words = prompt.split()
    for length in range(2, 60):
        try:
            toy.encode(prompt, length)
        except UserError as error:
            message = str(error)
            fitting = 0 if "no word fits" in message else int(message.rsplit("(word ", 1)[1].rstrip(")"))
            toy.encode(" ".join(words[:fitting]), length)
            with pytest.raises(UserError):
                toy.encode(" ".join(words[: fitting + 1]), length)


def test_undecodable_bytes_are_rejected(toy):
    with pytest.raises(UserError, match="not Unicode"):
        toy.encode("caf\udce9", 8)


# ---- the small vocabulary ----


def test_words_of_the_captions_are_single_tokens(toy):
    for caption in CAPTIONS:
        words = normalized_words(caption)
        assert split(toy, caption) == [*(f"▁{word}" for word in words), "</s>"]


def normalized_words(caption: str) -> list[str]:
    return "".join(map(normalization.fold, caption)).split()


def test_case_punctuation_and_accents_do_not_matter(toy):
    plain = split(toy, 'a red ball - moves left . "')
    for prompt in (
        "A RED BALL-moves LEFT.“",
        "  a réd\tball — moves\n left。 »",
        "a red\u200b ball ‒ ｍｏｖｅｓ left.”",
    ):
        assert split(toy, prompt) == plain


def test_unknown_words_are_spelled_in_letters(toy):
    assert split(toy, "redder kite") == ["▁red", "d", "e", "r", "▁", "k", "i", "t", "e", "</s>"]


def test_all_of_ascii_has_tokens(toy):
    characters = "".join(map(chr, range(32, 127)))
    assert "<unk>" not in split(toy, " ".join(characters))
    assert split(toy, "漢字 red") == ["▁", "<unk>", "▁red", "</s>"]


def test_every_unicode_character_can_be_encoded(toy):
    for start in range(0, 0x110000, 0x400):
        prompt = "".join(chr(code) for code in range(start, start + 0x400) if not 0xD800 <= code <= 0xDFFF)
        toy.encode(prompt, 4096)


def test_ids_are_in_order_of_frequency_and_rare_words_are_dropped():
    base = len(train_toy_tokenizer(["x"])) - 1
    tokenizer = train_toy_tokenizer(CAPTIONS, vocab_size=base + 3)
    assert len(tokenizer) == base + 3
    assert [piece for piece, _ in tokenizer.pieces[-3:]] == ["▁a", "▁ball", "▁moves"]
    with pytest.raises(UserError, match=f"must be {base + 1} or more"):
        train_toy_tokenizer(CAPTIONS, vocab_size=base)


def test_letters_of_other_alphabets_in_captions_are_added():
    tokenizer = train_toy_tokenizer(["ein schöner Ball", "красный шар"])
    assert split(tokenizer, "шара красный") == ["▁шар", "а", "▁красный", "</s>"]


def test_vocabulary_is_deterministic(toy):
    repeated = train_toy_tokenizer(iter(CAPTIONS))
    assert (repeated.pieces, repeated.charsmap) == (toy.pieces, toy.charsmap)


def test_decode_returns_the_normalized_string(toy):
    assert toy.decode(toy.encode("A RED ball, kite", 12)[0]) == "a red ball , kite"


# ---- files ----


def test_both_files_round_trip(toy, tmp_path):
    toy.save(tmp_path)
    pieces, charsmap = sentencepiece_model.read(tmp_path / "spiece.model")
    assert (pieces, charsmap) == (toy.pieces, toy.charsmap)
    repeated = Tokenizer.from_folder(tmp_path)
    assert (repeated.pieces, repeated.charsmap) == (toy.pieces, toy.charsmap)


def test_reading_imports_neither_sentencepiece_nor_transformers(toy, tmp_path):
    toy.save(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    code = (
        "import sys; from cogvideox.text.tokenizer import Tokenizer; Tokenizer.from_folder(sys.argv[1]); "
        "sys.exit(bool({'sentencepiece', 'transformers'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code, tmp_path], check=False).returncode == 0


def test_missing_files_are_rejected(tmp_path):
    with pytest.raises(UserError, match=r"neither tokenizer\.json nor spiece\.model"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "spiece.model"])
@pytest.mark.parametrize("fraction", [0.0, 0.001, 0.3, 0.99])
def test_truncated_files_are_rejected(toy, tmp_path, name, fraction):
    toy.save(tmp_path)
    file = tmp_path / name
    (tmp_path / {"tokenizer.json": "spiece.model", "spiece.model": "tokenizer.json"}[name]).unlink()
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * fraction)])
    with pytest.raises(UserError, match="damaged"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"type": "BPE", "vocab": {}, "merges": []}}, "T5 uses Unigram"),
        ({"normalizer": {"type": "Lowercase"}}, "normalizes text by Lowercase"),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "eHg="}}, "replacements is damaged"),
        ({"model": {"vocab": [["<s>", 0.0], ["a", -1.0]]}, "added_tokens": []}, "first pieces"),
        ({"added_tokens": [{"id": 9999, "content": "<mine>"}]}, "'<mine>' was added"),
        ({"model": None}, "damaged"),
        ({"model": {"type": "Unigram", "vocab": [["<pad>"]]}}, "damaged"),
    ],
)
def test_other_tokenizers_are_rejected(toy, tmp_path, change, message):
    toy.save(tmp_path)
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(UserError, match=message):
        Tokenizer.from_folder(tmp_path)


def test_invalid_number_of_sentinels_is_rejected(toy, tmp_path):
    toy.save(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer_config.json").write_text('{"extra_ids": "many"}')
    with pytest.raises(UserError, match="extra_ids must be an integer, got 'many'"):
        Tokenizer.from_folder(tmp_path)
    for number in (-1, 1001, 10**8, 10**300):
        (tmp_path / "tokenizer_config.json").write_text(f'{{"extra_ids": {number}}}')
        with pytest.raises(UserError, match=f"extra_ids must be from 0 to 1000, got {number}"):
            Tokenizer.from_folder(tmp_path)


def test_other_sentencepiece_models_are_rejected(tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CAPTIONS),
        model_prefix=str(tmp_path / "spiece"),
        model_type="bpe",
        vocab_size=60,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    with pytest.raises(UserError, match="Unigram"):
        Tokenizer.from_folder(tmp_path)


def test_unwritable_folder_is_rejected(toy, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        toy.save(tmp_path / "file" / "tokenizer")
