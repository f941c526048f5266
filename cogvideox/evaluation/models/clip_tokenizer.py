"""CLIP's tokenizer: byte pair encoding of lower-case text, from the original `bpe_simple_vocab_16e6.txt.gz`."""

import gzip
import html
import re
import unicodedata
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from cogvideox.errors import UserError
from cogvideox.untrusted.files import reading

VOCABULARY = 49408
"""Tokens of the published models: 256 bytes, 256 bytes at the end of a word, 48894 merges, start and end."""
MAX_BYTES = 2**25
END_OF_WORD = "</w>"
_PATTERN = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|(?:[^\s\w]|_)+")


class CLIPTokenizer:
    """Byte pair encoder of strings.

    Args:
        merges: pairs of strings, in the order in which they are merged.
    """

    def __init__(self, merges: list[tuple[str, str]]) -> None:
        letters = _byte_letters()
        vocabulary = [*letters.values(), *(letter + END_OF_WORD for letter in letters.values())]
        vocabulary += [first + second for first, second in merges]
        self._letters = letters
        self._tokens = {text: index for index, text in enumerate(vocabulary)}
        self._ranks = {pair: rank for rank, pair in enumerate(merges)}
        self.start, self.end = len(vocabulary), len(vocabulary) + 1
        self._encode_word = lru_cache(maxsize=65536)(self._merge)

    @classmethod
    def load(cls, file: str | Path) -> "CLIPTokenizer":
        """Read the merges from the original file, gzip-compressed or not.

        Raises:
            UserError: the file is missing or damaged.
        """
        path = Path(file)
        with reading(path, "not CLIP's list of merges"):
            data = path.read_bytes()
            if data.startswith(b"\x1f\x8b"):
                with gzip.open(path) as stream:
                    data = stream.read(MAX_BYTES)
            lines = data.decode("utf-8").split("\n")
        merges = [tuple(line.split()) for line in lines[1 : VOCABULARY - 2 * 256 - 2 + 1] if line.strip()]
        if not merges or any(len(pair) != 2 for pair in merges):
            raise UserError(f"cannot read {path}: it is not CLIP's list of merges")
        return cls([(pair[0], pair[1]) for pair in merges])

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a string, without start and end."""
        text = unicodedata.normalize("NFC", html.unescape(html.unescape(text)))
        text = " ".join(text.split()).lower()
        return [token for word in _PATTERN.findall(text) for token in self._encode_word(word)]

    def __call__(self, texts: list[str], num_tokens: int = 77, *, truncate: bool = False) -> Int[Tensor, "n s"]:
        """Return the tokens of strings between start and end, padded with zeros.

        Args:
            truncate: cut off longer strings, but keep the end token.

        Raises:
            UserError: a string is too long, and is not truncated.
        """
        rows = torch.zeros(len(texts), num_tokens, dtype=torch.long)
        for row, text in zip(rows, texts):
            tokens = [self.start, *self.encode(text), self.end]
            if truncate and len(tokens) > num_tokens:
                tokens = [*tokens[: num_tokens - 1], self.end]
            if len(tokens) > num_tokens:
                raise UserError(f"{text[:40]!r}... has {len(tokens)} tokens, and CLIP reads {num_tokens}")
            row[: len(tokens)] = torch.tensor(tokens)
        return rows

    def _merge(self, word: str) -> tuple[int, ...]:
        parts = [self._letters[byte] for byte in word.encode("utf-8")]
        parts[-1] += END_OF_WORD
        while len(parts) > 1:
            pairs = list(pairwise(parts))
            best = min(pairs, key=lambda pair: self._ranks.get(pair, len(self._ranks)))
            if best not in self._ranks:
                break
            merged: list[str] = []
            for part in parts:
                if merged and (merged[-1], part) == best:
                    merged[-1] = "".join(best)
                    # A part that was just merged is not merged again in the same pass.
                    merged.append("")
                else:
                    merged.append(part)
            parts = [part for part in merged if part]
        return tuple(self._tokens[part] for part in parts)


def _byte_letters() -> dict[int, str]:
    """Return a printable character for every byte, in the order of the vocabulary (GPT-2)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
