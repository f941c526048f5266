"""Mutations that damage a file but keep its structure: JSON, pickles, safetensors, archives, media containers.

Every function takes a random generator, so that a case can be reproduced from its seed.
"""

import copy
import io
import json
import pickletools
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from random import Random
from typing import Any

HUGE = "@huge@"
"""Placeholder for an integer of 5000 digits, which Python's `json` cannot write."""

WORDS = (
    *("", " ", "0", "-1", "1e400", "nan", "inf", "-0.0", "1e-320", "9" * 30, "9" * 5000, "0x" + "f" * 4000, "½", "٣"),
    *("none", "true", "yes", "~", "[]", "{}", "[" * 3000, "{a: " * 200, "[[1]]", "{a: 1, a: 2}", "a: b: c", "- ", "|"),
    *("&a [*a]", "*a", "? [a]", "!!int x", "!!timestamp x", "!!binary x", "!!set x", "!!python/name:os.system"),
    *("2001-99-99", "1:99:99", ".inf", "<<", "=", "%", "@", "\\", "'", '"', "\n", "\t", "\x07", "\udcff", "\U0001f388"),
    *("../../..", "/dev/zero", "/proc/self/mem", "file:///etc/passwd", "a" * 300, "a/" * 2000, "~nobody/x", "%d.png"),
    *(
        "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]",
        ".",
        "/",
        "x" * 100_000,
        "--",
        "-",
        "1,2",
        "auto",
        "cuda:99",
        "0/0",
    ),
)
VALUES = (
    None,
    True,
    -1,
    0,
    2,
    3.5,
    10**9,
    10**18,
    2**63,
    HUGE,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "\0",
    "\ud800",
)
VALUES = (*VALUES, "../x", "x" * 2000, [], {}, [[]], [None] * 50, {"x": 1}, {"": {}}, [0, 0], [1, 2, 3], "NaN", "1")


def damage_bytes(data: bytes, rng: Random) -> bytes:
    """Flip a bit; remove, repeat or replace a part; write an extreme 4-byte integer; or cut off the end."""
    if not data:
        return rng.randbytes(8)
    for _ in range(rng.choice((1, 1, 2, 5))):
        start, size = rng.randrange(len(data)), rng.choice((1, 4, 16, 200))
        new = rng.choice(
            (
                bytes([data[start] ^ 1 << rng.randrange(8)]) + data[start + 1 : start + size],
                b"",
                data[start : start + size] * rng.choice((2, 50)),
                rng.randbytes(size),
                struct.pack(rng.choice("<>") + "I", rng.choice((0, 1, 2**16, 2**31 - 1, 2**31, 2**32 - 1))),
                bytes(size),
            )
        )
        end = start + max(size, len(new)) if rng.random() < 0.5 else start
        data = data[:start] + new + data[end:] or b"\0"
    return data[: rng.randrange(len(data))] if rng.random() < 0.15 else data


def walk(value: Any) -> list[tuple[Any, Any]]:
    """List every (container, key) in a JSON value."""
    keys = range(len(value)) if isinstance(value, list) else list(value) if isinstance(value, dict) else ()
    return [pair for key in keys for pair in [(value, key), *walk(value[key])]]


def damage_json(value: Any, rng: Random) -> str:
    """Return JSON text with some keys or values changed, removed, repeated or deeply nested; sometimes invalid JSON."""
    value = json.loads(json.dumps(value))
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        places = walk(value)
        if not places:
            break
        container, key = rng.choice(places)
        action = rng.randrange(6)
        if action == 0:
            del container[key]
        elif action == 1 and isinstance(container, dict):
            container[rng.choice(("", "x", "\0", key + "x", key * 50))] = container.pop(key)
        elif action == 2 and isinstance(container, list):
            container += [container[key]] * rng.choice((1, 1000))
        elif action == 3:
            other, name = rng.choice(places)
            container[key] = json.loads(
                json.dumps(other[name] if name in (other if isinstance(other, dict) else range(len(other))) else None)
            )
        else:
            container[key] = copy.deepcopy(rng.choice(VALUES))
    text = json.dumps(value).replace(json.dumps(HUGE), "9" * 5000)
    if rng.random() < 0.1:
        depth = rng.choice((70, 990, 100_000))
        text = text.replace(":", ":" + '[{"a":' * depth + "1" + "}]" * depth, 1) if rng.random() < 0.5 else "[" * depth
    if rng.random() < 0.1:
        text = damage_bytes(text.encode(), rng).decode("utf-8", "surrogateescape")
    return text


def write_text(text: str) -> bytes:
    """Encode text that may contain lone surrogates."""
    return text.encode(
        "utf-8", "surrogatepass" if re.search("[\ud800-\udc7f\udd00-\udfff]", text) else "surrogateescape"
    )


def damage_safetensors(data: bytes, rng: Random) -> bytes:
    """Damage the JSON header, with a correct length, or any bytes."""
    size = int.from_bytes(data[:8], "little")
    if rng.random() < 0.25:
        return damage_bytes(data, rng)
    header = json.loads(data[8 : 8 + size])
    metadata = header.get("__metadata__", {})
    if metadata and rng.random() < 0.5:  # metadata values may be JSON documents
        key = rng.choice([*metadata])
        try:
            metadata[key] = damage_json(json.loads(metadata[key]), rng)
        except ValueError:
            metadata[key] = rng.choice(WORDS)
        text = json.dumps(header)
    else:
        text = damage_json(header, rng)
    new = write_text(text)
    return len(new).to_bytes(8, "little") + new + data[8 + size :]


def damage_pickle(data: bytes, rng: Random) -> bytes:
    """Remove, repeat, copy or replace operations of a pickle, or damage their arguments."""
    try:
        starts = [position for _, _, position in pickletools.genops(data)]
    except Exception:
        return damage_bytes(data, rng)
    operations = [data[start:end] for start, end in zip(starts, [*starts[1:], len(data)], strict=True)]
    for _ in range(rng.choice((1, 1, 2, 6))):
        i = rng.randrange(len(operations))
        if (action := rng.randrange(5)) == 0:
            operations[i] = b""
        elif action == 1:
            times = rng.choice((2, 100))
            operations[i] *= times if len(operations[i]) < 10_000 else 2  # the last one may hold all tensors
        elif action == 2:
            operations.insert(rng.randrange(len(operations)), operations[i])
        elif action == 3:
            operations[i] = rng.choice(
                (b"N", b"]", b"}", b")", b"K\xff", b"\x8a\x08" + b"\x7f" * 8, b"cos\nsystem\n", b"0", b"\x86")
            )
        else:
            operations[i] = operations[i][:1] + damage_bytes(operations[i][1:], rng)
    return b"".join(operations)


def rewrite_archive(archive: bytes, name: str, change: Callable[[bytes], bytes]) -> bytes:
    """Return the archive with changed content, and valid checksums, in files whose names end in `name`."""
    output = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as source, zipfile.ZipFile(output, "w") as target:
        for entry in source.namelist():
            content = source.read(entry)
            target.writestr(entry, change(content) if entry.endswith(name) else content)
    return output.getvalue()


def damage_media(data: bytes, name: str, rng: Random) -> bytes:
    """Damage sizes in image headers, numbers in container headers, or any bytes."""
    if name.endswith(".png") and rng.random() < 0.5:
        width, height = (rng.choice((0, 1, 17, 4000, 30_000, 2**31 - 1)) for _ in range(2))
        header = struct.pack(">II", width, height) + data[24:29]
        return data[:16] + header + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + data[33:]
    if name.endswith(".jpg") and (start := data.find(b"\xff\xc0")) >= 0 and rng.random() < 0.5:
        size = struct.pack(">HH", *(rng.choice((0, 1, 20_000, 65_535)) for _ in range(2)))
        return data[: start + 5] + size + data[start + 9 :]
    if name.endswith(".gif") and rng.random() < 0.5:
        return data[:6] + struct.pack("<HH", *(rng.choice((0, 1, 20_000, 65_535)) for _ in range(2))) + data[10:]
    boxes = [
        match.start() for match in re.finditer(rb"tkhd|mdhd|mvhd|stsd|stts|stsz|stco|elst|avcC|avih|strh|strf", data)
    ]
    for _ in range(rng.choice((1, 1, 3)) if boxes else 0):
        start = rng.choice(boxes) + 4 * rng.randrange(-1, 24)
        number = rng.choice((0, 1, 2**16, 2**31 - 1, 2**32 - 1, rng.randrange(2**32)))
        data = data[:start] + struct.pack(rng.choice("<>") + "I", number) + data[start + 4 :]
    return data if boxes and rng.random() < 0.8 else damage_bytes(data, rng)
