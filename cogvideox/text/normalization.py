"""Text normalization of the toybox vocabulary: lower case, no accents, ASCII where possible, punctuation as words.

"A RED ball—rolling" and "a red ball - rolling" become the same string. The rules are compiled into the character
replacement table of a SentencePiece model, so that every library that reads the model applies them.
"""

import string
import tempfile
import unicodedata
from functools import cache
from pathlib import Path

from cogvideox.text import sentencepiece_model

# Typographic characters and their ASCII equivalents, for those that Unicode normalization does not map.
_PLAIN = {
    "'": "‘’‚‛′´`ʼ",
    '"': "“”„‟″«»「」『』",
    "-": "‐‑‒–—―−",
    "/": "⁄∕",
    ".": "。",
    ",": "、",
    "*": "×·•",
    " ": "▁",  # SentencePiece's symbol for a space
}
_TO_PLAIN = str.maketrans({character: plain for plain, characters in _PLAIN.items() for character in characters})
_SPACED = str.maketrans({character: f" {character} " for character in string.punctuation})


def fold(character: str) -> str:
    """Return the replacement of one character: lower case, no accents, ASCII if possible, spaces around punctuation."""
    category = unicodedata.category(character)
    if category in ("Cc", "Zs", "Zl", "Zp"):
        return " "
    if category in ("Cf", "Mn"):  # invisible: joiners, direction marks, combining accents, variation selectors
        return ""
    folded = unicodedata.normalize("NFKD", character.translate(_TO_PLAIN)).casefold()
    # Case folding may add accents ("İ"), so they are removed afterwards.
    folded = "".join(c for c in unicodedata.normalize("NFKD", folded) if unicodedata.category(c) != "Mn")
    # SentencePiece merges spaces between replacements, but not within one ("…").
    folded = folded.translate(_TO_PLAIN).translate(_SPACED).replace("  ", " ")
    return folded if folded.isascii() else character


@cache
def charsmap() -> bytes:
    """Return the replacement table of `fold` for all characters, compiled by SentencePiece."""
    import sentencepiece

    # Surrogates are not characters. Planes after the first two contain only ideographs, which are not replaced.
    characters = (chr(code) for code in range(1, 0x20000) if not 0xD800 <= code <= 0xDFFF)
    rules = [(character, folded) for character in characters if (folded := fold(character)) != character]
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder, "rules.tsv")
        # Each line has the hexadecimal code points of a character and of its replacement.
        table.write_text(
            "".join(f"{ord(character):X}\t{' '.join(f'{ord(c):X}' for c in folded)}\n" for character, folded in rules)
        )
        # SentencePiece compiles tables only during training, so a model of one character is trained.
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(["a"]),
            model_prefix=str(Path(folder, "spiece")),
            model_type="unigram",
            vocab_size=8,
            hard_vocab_limit=False,
            normalization_rule_tsv=str(table),
            minloglevel=2,
        )
        return sentencepiece_model.read(Path(folder, "spiece.model"))[1]
