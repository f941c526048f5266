"""What a small vocabulary does to text before looking up words: one alphabet, one case, punctuation on its own.

"A RED ball—rolling" and "a red ball - rolling" become the same. The rules are compiled to the table of character
replacements that SentencePiece models carry, so that every reader of such a model applies them.
"""

import string
import tempfile
import unicodedata
from functools import cache
from pathlib import Path

from cogvideox.text import sentencepiece_model

# Signs that people type or paste, and the plain ones they stand for. Unicode itself relates them to nothing.
_PLAIN = {
    "'": "‘’‚‛′´`ʼ",
    '"': "“”„‟″«»「」『』",
    "-": "‐‑‒–—―−",
    "/": "⁄∕",
    ".": "。",
    ",": "、",
    "*": "×·•",
    " ": "▁",  # how SentencePiece writes a space: not to be typed
}
_TO_PLAIN = str.maketrans({sign: plain for plain, signs in _PLAIN.items() for sign in signs})
_SPACED = str.maketrans({sign: f" {sign} " for sign in string.punctuation})


def fold(character: str) -> str:
    """What stands for one character: lower case, no accents, ASCII where there is such a thing, punctuation spaced."""
    category = unicodedata.category(character)
    if category in ("Cc", "Zs", "Zl", "Zp"):
        return " "
    if category in ("Cf", "Mn"):  # invisible: joiners, direction marks, combining accents, variation selectors
        return ""
    folded = unicodedata.normalize("NFKD", character.translate(_TO_PLAIN)).casefold()
    # Case folding may compose anew ("İ"), so accents are split off after it.
    folded = "".join(part for part in unicodedata.normalize("NFKD", folded) if unicodedata.category(part) != "Mn")
    # SentencePiece merges spaces between replacements, but not inside of one ("…").
    folded = folded.translate(_TO_PLAIN).translate(_SPACED).replace("  ", " ")
    return folded if folded.isascii() else character


@cache
def charsmap() -> bytes:
    """`fold` for all characters, compiled by SentencePiece, the one program that writes these tables."""
    import sentencepiece

    # Surrogates are no characters; beyond the first two planes there are only ideographs, which fold to themselves.
    characters = (chr(code) for code in range(1, 0x20000) if not 0xD800 <= code <= 0xDFFF)
    rules = [(character, folded) for character in characters if (folded := fold(character)) != character]
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder, "rules.tsv")
        # A rule is the code points of both sides in hexadecimal.
        table.write_text(
            "".join(f"{ord(character):X}\t{' '.join(f'{ord(c):X}' for c in folded)}\n" for character, folded in rules)
        )
        # It compiles tables only while it trains: here, a model of one character.
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
