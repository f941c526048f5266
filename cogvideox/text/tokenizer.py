"""T5 tokenizer: prompts to token ids of fixed length, with an end token and padding. Prompts are never truncated.

A T5 tokenizer first applies a table of character replacements, then splits the prompt into the most likely sequence of
vocabulary pieces (Unigram; Kudo 2018, arXiv 1804.10959). `tokenizer.json` and `spiece.model` are two file formats for
the same content: either one is read, and both are written.
"""

import base64
import json
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor

from cogvideox.atomic_io import write_text
from cogvideox.errors import PromptError, UserError
from cogvideox.text import normalization, sentencepiece_model
from cogvideox.untrusted.files import parse_json, read_text, reading

# First tokens of every T5 vocabulary.
SPECIAL_TOKENS = ("<pad>", "</s>", "<unk>")
PAD_ID, EOS_ID, UNK_ID = range(3)
MAX_SENTINELS = 1000  # T5 has 100
_SPACE = "▁"  # starts the first piece of every word


class Tokenizer:
    """Tokenizer for `T5Encoder`.

    Args:
        pieces: vocabulary pieces with their log-probabilities, in the order of ids, starting with `SPECIAL_TOKENS`.
        charsmap: character replacements in SentencePiece's compiled form; empty for none.

    Raises:
        UserError: the pieces do not start with `SPECIAL_TOKENS`.
    """

    def __init__(self, pieces: Sequence[sentencepiece_model.Piece], charsmap: bytes = b"") -> None:
        first = tuple(piece for piece, _ in pieces[:3])
        if first != SPECIAL_TOKENS:
            raise UserError(f"the tokenizer's first pieces are {first}, but T5's are {SPECIAL_TOKENS}")
        self.pieces = list(pieces)
        self.charsmap = charsmap
        self._backend = _backend(self.pieces, charsmap)

    def __len__(self) -> int:
        """Number of ids, including special tokens: the minimum `vocab_size` of an encoder."""
        return len(self.pieces)

    @classmethod
    def from_folder(cls, path: str | Path) -> "Tokenizer":
        """Read `tokenizer.json` from a folder, or `spiece.model` if there is none.

        Raises:
            UserError: neither file exists, or it is not a T5 tokenizer.
        """
        folder = Path(path)
        if (folder / "tokenizer.json").is_file():
            return cls(*_read_json(folder / "tokenizer.json"))
        if (folder / "spiece.model").is_file():
            pieces, charsmap = sentencepiece_model.read(folder / "spiece.model")
            # The file lacks the sentinel tokens of T5's pre-training; the settings contain their number.
            settings = (
                _load_json_object(folder / "tokenizer_config.json")
                if (folder / "tokenizer_config.json").is_file()
                else {}
            )
            num_sentinels = settings.get("extra_ids", 100)
            where = folder / "tokenizer_config.json"
            if type(num_sentinels) is not int:
                raise UserError(f"{where}: extra_ids must be an integer, got {num_sentinels!r}")
            if not 0 <= num_sentinels <= MAX_SENTINELS:
                raise UserError(f"{where}: extra_ids must be from 0 to {MAX_SENTINELS}, got {num_sentinels}")
            return cls([*pieces, *_sentinels(num_sentinels)], charsmap)
        raise UserError(f"the tokenizer folder {folder} has neither tokenizer.json nor spiece.model")

    def save(self, path: str | Path) -> None:
        """Write a folder from which `from_folder`, transformers and diffusers read the same tokenizer.

        Raises:
            UserError: the folder cannot be written.
        """
        folder = Path(path)
        num_sentinels = sum(piece.startswith("<extra_id_") for piece, _ in self.pieces)
        settings = {
            "tokenizer_class": "T5Tokenizer",
            **dict(zip(("pad_token", "eos_token", "unk_token"), SPECIAL_TOKENS)),
            "extra_ids": num_sentinels,
        }
        write_text(folder / "tokenizer.json", self._backend.to_str(pretty=True) + "\n")
        # Read by `T5Tokenizer` of transformers up to version 4, the class in diffusers' pipelines.
        sentencepiece_model.write(folder / "spiece.model", self.pieces[: len(self) - num_sentinels], self.charsmap)
        write_text(folder / "tokenizer_config.json", json.dumps(settings, indent=2) + "\n")

    def encode(self, prompts: str | Sequence[str], length: int) -> Int[Tensor, "b n"]:
        """Return the ids of one or several prompts, each with the end token, padded to `length`.

        Raises:
            PromptError: a prompt has more than `length` tokens, including the end token, or is not Unicode text.
        """
        prompts = [prompts] if isinstance(prompts, str) else prompts
        ids = torch.full((len(prompts), length), PAD_ID, dtype=torch.long)
        for row, prompt in zip(ids, prompts):
            try:
                encoding = self._backend.encode(prompt)
            except (TypeError, UnicodeEncodeError) as error:
                raise PromptError(f"the prompt {prompt!r} is not Unicode text") from error
            if len(encoding.ids) > length:
                raise _too_long(prompt, len(encoding.ids), length, encoding.offsets)
            row[: len(encoding.ids)] = torch.tensor(encoding.ids)
        return ids

    def token_ids(self, prompt: str) -> list[int]:
        """Return the ids of one prompt, without end token and padding."""
        return self._backend.encode(prompt, add_special_tokens=False).ids

    def decode(self, ids: Int[Tensor, " n"]) -> str:
        """Return the normalized string of the ids, without special tokens."""
        return self._backend.decode(ids.tolist())


def train_toy_tokenizer(captions: Iterable[str], vocab_size: int = 1024, num_sentinels: int = 0) -> Tokenizer:
    """Build a small vocabulary in which each word of the captions is one piece. Other words are split into letters.

    Text is normalized first (`normalization.fold`): case, accents and the style of quotes do not matter, and
    punctuation is separate. A word that starts with a known word ("redder") becomes that word and the remaining
    letters. Letters of other alphabets are `<unk>`.

    Args:
        captions: the training captions; every word that should be a piece must occur in them.
        vocab_size: maximum number of ids. Ids are in order of frequency, and the rarest words are dropped first.
        num_sentinels: number of sentinel tokens for span corruption; `<extra_id_0>` has the highest id, as in T5.

    Raises:
        UserError: `vocab_size` is too small for any word.
    """
    charsmap = normalization.charsmap()
    normalizer = normalizers.Precompiled(charsmap)
    counts = Counter(word for caption in captions for word in normalizer.normalize_str(caption).split())
    letters = sorted({*string.ascii_lowercase, *string.digits}.union(*counts) - {*string.punctuation})
    # With log-probabilities of -1 for words and -10 for letters, the most likely split has the longest words.
    base = [(token, 0.0) for token in SPECIAL_TOKENS]
    base += [(letter, -10.0) for letter in (_SPACE, *letters)]
    base += [(_SPACE + sign, -1.0) for sign in string.punctuation]  # normalization makes each sign a word
    num_words = vocab_size - len(base) - num_sentinels
    if num_words < 1:
        minimum = len(base) + num_sentinels + 1
        raise UserError(f"vocab_size={vocab_size} is too small for any word; it must be {minimum} or more")
    frequent = sorted(counts.keys() - {*string.punctuation}, key=lambda word: (-counts[word], word))
    words = [(_SPACE + word, -1.0) for word in frequent[:num_words]]
    return Tokenizer([*base, *words, *_sentinels(num_sentinels)], charsmap)


def _backend(pieces: list[sentencepiece_model.Piece], charsmap: bytes) -> Backend:
    """Create the `tokenizers` backend, configured as in transformers for T5."""
    backend = Backend(models.Unigram(pieces, unk_id=UNK_ID, byte_fallback=False))
    if charsmap:
        try:
            backend.normalizer = normalizers.Precompiled(charsmap)
        except Exception as error:  # the library raises a plain Exception
            raise UserError("the tokenizer's table of character replacements is damaged") from error
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme="always")]
    )
    backend.decoder = decoders.Metaspace(replacement=_SPACE, prepend_scheme="always")
    eos = SPECIAL_TOKENS[EOS_ID]
    backend.post_processor = processors.TemplateProcessing(
        single=f"$A {eos}", pair=f"$A {eos} $B {eos}", special_tokens=[(eos, EOS_ID)]
    )
    backend.add_special_tokens(
        [piece for piece, _ in pieces if piece in SPECIAL_TOKENS or piece.startswith("<extra_id_")]
    )
    return backend


def _sentinels(count: int) -> list[sentencepiece_model.Piece]:
    return [(f"<extra_id_{index}>", 0.0) for index in reversed(range(count))]


def _load_json_object(path: Path) -> dict[str, Any]:
    with reading(path, "damaged or not JSON"):
        content = parse_json(read_text(path))
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged: it is not a JSON object")
    return content


def _read_json(path: Path) -> tuple[list[sentencepiece_model.Piece], bytes]:
    """Read pieces and character replacements of a `tokenizer.json`. Its pre-tokenizer is ignored in favor of T5's."""
    content = _load_json_object(path)
    with reading(path, "damaged or not a tokenizer"):
        model, normalizer = content["model"], content["normalizer"] or {"type": "Sequence", "normalizers": []}
        model_type = "bytes" if model.get("byte_fallback") else model.get("type", "Unigram")
        pieces = [(str(piece), float(score)) for piece, score in model["vocab"]] if model_type == "Unigram" else []
        added = [token["content"] for token in content["added_tokens"] if token["id"] >= len(pieces)]
        steps = {step["type"]: step for step in normalizer.get("normalizers", [normalizer])}
        charsmap = base64.b64decode(steps.get("Precompiled", {}).get("precompiled_charsmap") or "")
    if model_type != "Unigram":
        raise UserError(f"{path} is not a T5 tokenizer: its model is {model_type}, but T5 uses Unigram")
    if unsupported := steps.keys() - {"Precompiled", "Strip", "Replace"}:  # Strip and Replace only clean up spaces
        raise UserError(f"{path} is not a T5 tokenizer: it normalizes text by {', '.join(sorted(unsupported))}")
    # Sentinels do not occur in prompts. Other added tokens would change how prompts are split.
    if added_tokens := [token for token in added if not token.startswith("<extra_id_")]:
        raise UserError(f"{path} is not a plain T5 tokenizer: {added_tokens[0]!r} was added to its vocabulary")
    return pieces, charsmap


def _too_long(prompt: str, num_tokens: int, length: int, offsets: Sequence[tuple[int, int]]) -> PromptError:
    """Return the error for a prompt that is too long, with the last word that fits."""
    end = offsets[length - 1][0] if length > 0 else 0
    fitting = prompt[:end].split()
    if fitting and not prompt[end - 1].isspace() and not prompt[end].isspace():
        fitting.pop()  # the token at the limit is in the middle of a word
    advice = f"the last word that still fits is {fitting[-1]!r} (word {len(fitting)})" if fitting else "no word fits"
    return PromptError(f"the prompt has {num_tokens} tokens, but the limit is {length}: {advice}")
