"""Reading and writing of SentencePiece model files (`spiece.model`) without protobuf.

The file is one protobuf message (sentencepiece_model.proto). T5 tokenizers use the scored pieces and the compiled
table of character replacements. Other fields are skipped.
"""

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cogvideox.atomic_io import atomic_write
from cogvideox.errors import UserError
from cogvideox.untrusted.files import reading

Piece = tuple[str, float]

# Field numbers of the message, of a piece, of the trainer settings and of the normalizer settings.
_PIECE, _TRAINER, _NORMALIZER = 1, 2, 3
_STRING, _SCORE, _TYPE = 1, 2, 3
_MODEL_TYPE, _VOCAB_SIZE, _UNK_ID, _BOS_ID, _EOS_ID, _PAD_ID = 3, 4, 40, 41, 42, 43
_NAME, _CHARSMAP = 1, 2
_UNIGRAM = 1
_NORMAL, _UNKNOWN, _CONTROL = 1, 2, 3
# Wire types: the encoding of a field's value.
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def read(path: str | Path) -> tuple[list[Piece], bytes]:
    """Read the pieces with their scores (log-probabilities), in the order of ids, and the replacement table.

    Raises:
        UserError: the file cannot be read, or is not a SentencePiece Unigram model.
    """
    pieces: list[Piece] = []
    charsmap = b""
    model_type = _UNIGRAM
    with reading(path, "damaged or not a SentencePiece model"):
        for number, value in _fields(Path(path).read_bytes()):
            if number == _PIECE:
                piece = dict(_fields(value))
                pieces.append((piece[_STRING].decode(), struct.unpack("<f", piece.get(_SCORE, bytes(4)))[0]))
            elif number == _TRAINER:
                model_type = dict(_fields(value)).get(_MODEL_TYPE, _UNIGRAM)
            elif number == _NORMALIZER:
                charsmap = dict(_fields(value)).get(_CHARSMAP, b"")
        if not pieces:
            raise ValueError("it has no pieces")
    if model_type != _UNIGRAM:
        raise UserError(f"{path} is a SentencePiece model of type {model_type}, but T5 uses Unigram, type {_UNIGRAM}")
    return pieces, charsmap


def write(path: str | Path, pieces: Sequence[Piece], charsmap: bytes) -> None:
    """Write a Unigram model with T5's special pieces: 0 padding, 1 end of sequence, 2 unknown; no start of sequence.

    Raises:
        UserError: the file cannot be written.
    """
    data = bytearray()
    for index, (string, score) in enumerate(pieces):
        kind = (_CONTROL, _CONTROL, _UNKNOWN)[index] if index < 3 else _NORMAL
        piece = _bytes(_STRING, string.encode()) + _float(_SCORE, score) + _integer(_TYPE, kind)
        data += _bytes(_PIECE, piece)
    settings = {_MODEL_TYPE: _UNIGRAM, _VOCAB_SIZE: len(pieces), _UNK_ID: 2, _BOS_ID: -1, _EOS_ID: 1, _PAD_ID: 0}
    data += _bytes(_TRAINER, b"".join(_integer(number, value) for number, value in settings.items()))
    data += _bytes(_NORMALIZER, _bytes(_NAME, b"user_defined") + _bytes(_CHARSMAP, charsmap))
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Yield the field numbers and values of a message: integers for varints, raw bytes for all other types."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, position = _varint(data, position)
            yield number, value
            continue
        if wire == _BYTES:
            size, position = _varint(data, position)
        elif wire in (_FIXED32, _FIXED64):
            size = 4 if wire == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire}")
        if position + size > len(data):
            raise ValueError("the message ends inside a field")
        yield number, data[position : position + size]
        position += size


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return value, position


def _to_varint(value: int) -> bytes:
    value &= (1 << 64) - 1  # negative numbers in 64-bit two's complement
    data = bytearray()
    while value > 127:
        data.append(value & 127 | 128)
        value >>= 7
    return bytes([*data, value])


def _integer(number: int, value: int) -> bytes:
    return _to_varint(number << 3 | _VARINT) + _to_varint(value)


def _bytes(number: int, value: bytes) -> bytes:
    return _to_varint(number << 3 | _BYTES) + _to_varint(len(value)) + value


def _float(number: int, value: float) -> bytes:
    return _to_varint(number << 3 | _FIXED32) + struct.pack("<f", value)
