"""Text in unknown encodings."""

import json
import os

import pytest

from cogvideox.untrusted.text_encoding import decode, dump_json, printable, split_lines, text_problem

TEXTS = ("un café rouge", "красный шар", "红球 red", "naïve 🎈 “ball”", "x", "")


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_unicode_encodings_are_decoded(text, encoding):
    assert decode(text.encode(encoding)) == text
    if encoding.startswith(("utf-16", "utf-32")):
        for order in ("le", "be"):
            assert decode(("\ufeff" + text).encode(f"{encoding}-{order}")) == text


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("text", ["a red ball\r\n", "un café rouge", "file_name,caption\na.mp4,a ball"])
def test_utf_16_without_a_byte_order_mark_is_decoded(text, encoding):
    assert decode(text.encode(encoding)) == text


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        *(("un café rouge", name) for name in ("cp1252", "latin-1", "cp850", "mac-roman")),
        *(("красный шар", name) for name in ("cp1251", "koi8-r", "cp866", "utf-16-le", "utf-16-be")),
        *(("赤いボール", name) for name in ("shift_jis", "euc-jp", "iso-2022-jp")),
        *(("红色的球", name) for name in ("gbk", "gb18030", "big5")),
        ("빨간 공", "euc-kr"),
        ("a red ball", "cp037"),
    ],
)
def test_other_encodings_are_reported(text, encoding):
    """These encodings cannot be distinguished, so decoding would often produce wrong letters."""
    decoded = decode(text.encode(encoding, "ignore"))
    assert text_problem(decoded) is not None or decoded == text


DAMAGED = (b"red\0ball", b"red ball\x1b[31m", "red ball".encode("utf-16")[:-1], b"\xff", b"\xfe")


@pytest.mark.parametrize("data", DAMAGED)
def test_damaged_text_is_reported(data):
    assert text_problem(decode(data)) is not None


def test_undecodable_bytes_use_surrogateescape():
    assert os.fsencode(decode(b"caf\xe9.mp4")) == b"caf\xe9.mp4"


def test_only_newlines_separate_lines():
    text = "a\u2028b\x0bc\x0cd\x85e\x1cf\n\ufeffg\r\nh\ri"
    assert split_lines(text) == ["a\u2028b\x0bc\x0cd\x85e\x1cf", "g", "h", "i"]
    assert split_lines("a\n") == ["a"] and split_lines("") == [] and split_lines("\n\n") == ["", ""]


@pytest.mark.parametrize("text", [*TEXTS, "caf\udce9.mp4", 'a\ud800"\\', "\udc80\udcff"])
def test_json_is_valid_utf_8_and_readable(text):
    dumped = dump_json({text: [text]})
    assert json.loads(dumped.encode()) == {text: [text]}
    assert "é" not in text or "é" in dumped


def test_printable_text_is_valid_utf_8():
    assert printable("caf\udce9 \x1b[31m\n\ud800é红") == "caf\\xe9 \\x1b[31m\\n\\ud800é红"
    for text in TEXTS:
        assert printable(text) == text
