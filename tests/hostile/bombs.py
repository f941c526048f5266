"""Hostile cases of small files that claim, or unpack to, huge contents, and of single flipped bits."""

import io
import json
import struct
import warnings
import zlib
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from random import Random

from tests.hostile.corpus import PROMPT, Case, Corpus

SIDES = (1, 2_000, 4_000, 16_000, 65_000)
"""Heights and widths. The default limit is 100 million pixels."""


def images(c: Corpus) -> Case:
    """Small images with very many pixels."""
    height, width = (c.rng.choice(SIDES) for _ in range(2))
    build = c.rng.choice((_png, _tiff, _qoi, _bmp, _ppm, _gif, _jpeg2000, _png_text))
    data, suffix = build(height, width)
    name = c.rng.choice(("a", "b")) + suffix
    (c.at / name).write_bytes(data)
    (c.at / name).with_suffix(".txt").write_text(PROMPT)
    return _use(c, name)


def videos(c: Corpus) -> Case:
    """Small videos with very large frames."""
    import av

    height, width = (c.rng.choice(SIDES) for _ in range(2))
    name = c.rng.choice(("a.nut", "a.mov", "a.avi", "a.y4m", "a.mjpeg"))
    if name == "a.y4m":
        (c.at / name).write_bytes(b"YUV4MPEG2 W%d H%d F8:1 Ip C420jpeg\n" % (width, height) + b"FRAME\n" * 9)
    elif name == "a.mjpeg":
        frame = c.read("media/d.jpg")
        start = frame.index(b"\xff\xc0")
        (c.at / name).write_bytes((frame[: start + 5] + struct.pack(">HH", height, width) + frame[start + 9 :]) * 3)
    else:
        pixels = _png(height, width)[0]
        with av.open(str(c.at / name), "w") as container:
            stream = container.add_stream("png", rate=8)
            stream.time_base, declared = Fraction(1, 8), c.rng.random() < 0.5 and height * width < 2 * 10**8
            stream.height, stream.width, stream.pix_fmt = *((height, width) if declared else (32, 48)), "rgb24"
            for k in range(9):
                packet = av.Packet(pixels)
                packet.stream, packet.pts, packet.dts, packet.time_base = stream, k, k, stream.time_base
                packet.is_keyframe = True
                container.mux(packet)
    (c.at / "a.txt").write_text(PROMPT)
    return _use(c, name)


def _use(c: Corpus, name: str) -> Case:
    if c.rng.random() < 0.6:
        return c.encode()
    return c.rng.choice(
        (c.generate("--video", name, "--extend", "--num-frames", "9"), Case(["toybox", "--judge", name]))
    )


def repeated_rows(c: Corpus) -> Case:
    """Small Parquet tables with many rows, or very long strings in them."""
    c.clips()
    (c.at / "metadata.parquet").write_bytes(c.read(f"repeated/{c.rng.randrange(len(REPETITIONS))}.parquet"))
    return c.encode()


REPETITIONS = (
    (20_000_000, 1, 1),
    (5_000, 20_000, 1),
    (5_000, 1, 100_000),
    (3_000, 1_000_000, 1),
    (1_000, 1, 1_000_000),
)
"""Rows of a table, and how often its caption and another string are repeated in each."""


def write_repetitions(folder: Path) -> None:
    """Write the tables of `repeated_rows`, because this takes more memory than reading them may."""
    import numpy as np
    import pyarrow as pa
    from pyarrow import parquet

    folder.mkdir()
    for index, (num_rows, captions, tags) in enumerate(REPETITIONS):
        zeros = pa.array(np.zeros(num_rows, dtype=np.int32))
        columns = {"file_name": "a.mp4", "text": PROMPT * captions, "tag": "x" * tags}
        encoded = {name: pa.DictionaryArray.from_arrays(zeros, pa.array([value])) for name, value in columns.items()}
        path = folder / f"{index}.parquet"
        parquet.write_table(pa.table(encoded), path, store_schema=index % 2 == 0, compression="zstd")


def large_tensors(c: Corpus) -> Case:
    """Checkpoints whose tensors are views of small memory, or of kinds that no model has."""
    import torch

    warnings.simplefilter("ignore")  # some kinds are deprecated
    side, value = c.rng.choice((10, 10**5, 10**9)), torch.zeros(1)
    tensor = c.rng.choice(
        (
            lambda: value.expand(side, side),
            lambda: value.to(torch.float8_e4m3fn).expand(side, 64),
            lambda: torch.sparse_coo_tensor(torch.zeros(2, 1, dtype=torch.long), value, (side, side)),
            lambda: torch.sparse_csr_tensor(torch.tensor([0, 1]), torch.tensor([0]), value, (1, side)),
            lambda: torch.empty(side, side, device="meta"),
            lambda: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8),
            lambda: torch.zeros(2, 2, dtype=torch.complex64),
            lambda: torch.nn.Parameter(value.expand(side, side)),
            lambda: torch.tensor([float("nan")]).as_strided((side, 2), (0, 0)),
        )
    )()
    name = c.rng.choice([*c.json("model/transformer/config.json"), "patch_embed.proj.weight", "proj_out.weight", "x"])
    torch.save({c.rng.choice(("module", "state_dict", "x")): {name: tensor, "b": tensor}}, c.at / "x.pt")
    convert = Case(["convert", "x.pt", "out.safetensors", "--part", "transformer"])
    return c.rng.choice((convert, Case(["inspect", "x.pt", "--values"]), Case(["inspect", "x.pt"])))


def large_models(c: Corpus) -> Case:
    """Model folders whose configurations claim huge networks."""
    model = c.copy("model")
    part = c.rng.choice(("transformer", "vae", "text_encoder"))
    config = json.loads((model / part / "config.json").read_text())
    for _ in range(c.rng.choice((1, 1, 3))):
        name = c.rng.choice([name for name, value in config.items() if type(value) in (int, list)])
        number = c.rng.choice((10**5, 10**7, 10**9))
        config[name] = number if isinstance(config[name], int) else [number] * c.rng.choice((4, 10**5))
    (model / part / "config.json").write_text(json.dumps(config))
    inspect, convert = Case(["inspect", "model", "--config"]), Case(["convert", "model", "out"])
    plan = c.generate("--model", "model", "--plan")
    return c.rng.choice((inspect, convert, plan, c.generate("--model", "model")))


def yaml(c: Corpus) -> Case:
    """Settings in YAML with aliases that multiply, or with deep nesting."""
    rng, depth, width = c.rng, c.rng.choice((8, 12, 30)), c.rng.choice((2, 10))
    names = [f"a{k}" for k in range(depth)]
    merged = "\n".join(f"{b}: &{b}\n  <<: [{', '.join([f'*{a}'] * width)}]" for a, b in pairwise(names))
    aliases = "\n".join(f"{b}: &{b} [{', '.join([f'*{a}'] * width)}]" for a, b in pairwise(names))
    mappings = "\n".join(f"{b}: &{b} {{{', '.join(f'k{k}: *{a}' for k in range(width))}}}" for a, b in pairwise(names))
    levels = rng.choice((60, 500, 5_000))
    document = rng.choice(
        (
            f"a0: &a0 [x, x]\n{aliases}\n",
            f"a0: &a0 {{x: 1}}\n{mappings}\n",
            f"a0: &a0 {{x: 1}}\n{merged}\n",
            "[" * levels,
            "[" * levels + "]" * levels,
            "{a: " * levels + "1" + "}" * levels,
            "\n".join(" " * k + "a:" for k in range(levels)),
            "- " * levels + "x",
            "? " * levels + "x",
            "!!set {" + "? " * levels + "x}",
            "--- x\n" * levels,
            "a: &a\n  b: *a\n",
            "a: |\n" + "  x\n" * levels * 10,
            "&a " * levels + "x",
            "x: 1\n" * levels,
        )
    )
    if rng.random() < 0.4:
        run = c.copy("run")
        text = document if rng.random() < 0.5 else (run / "settings.yaml").read_text() + document
        (run / "settings.yaml").write_text(text)
        steps = f"run.num_steps={rng.choice((2, 3))}"
        argv = ["train", "toybox-vae", "--out", "run", "--resume", *c.json("overrides.json"), steps]
        return Case(argv, writes=("run",))
    if rng.random() < 0.5:
        recipes = c.json("settings.json")
        recipe = rng.choice([*recipes])
        value = document if rng.random() < 0.5 else f"{{{', '.join(document.strip().splitlines())}}}"
        return Case(["train", recipe, f"{rng.choice(recipes[recipe])}={value[:100_000]}", "--dry-run"])
    (c.at / "recipe.yaml").write_text(document)
    c.clips()
    return Case(["curate", ".", "out", "--recipe", "recipe.yaml", "signals={}"], writes=("out",))


def flips(c: Corpus) -> Case:
    """One flipped bit in any file. A checkpoint with one is not resumed."""
    rng = c.rng
    folder = rng.choice(("checkpoint", "checkpoint", "model", "lora.safetensors", "archive.pt", "store", "media"))
    name = "run" if folder == "checkpoint" else folder
    if (c.folder / name).is_dir():
        c.copy(name)
    else:
        (c.at / name).write_bytes(c.read(name))
    within = c.at / name / "checkpoints" if folder == "checkpoint" else c.at / name
    files = [path for path in sorted(within.rglob("*")) if path.is_file()] if within.is_dir() else [within]
    if folder == "checkpoint":
        files = [path for path in files if path.name != "latest"]
    flip_bit(rng.choice(files), rng)
    if folder == "checkpoint":
        argv = ["train", "toybox-vae", "--out", "run", "--resume", *c.json("overrides.json"), "run.num_steps=3"]
        return Case(argv, writes=("run",), expected=False)
    if folder in ("store", "media"):
        argv = ["encode", str(c.folder / "media") if folder == "store" else "media", "-o", "store", "--model", c.model]
        return Case(argv, writes=("store",))
    if folder == "model":
        return rng.choice((Case(["inspect", "model", "--values"]), Case(["convert", "model", "out"])))
    return rng.choice((Case(["inspect", name, "--values"]), Case(["convert", name, "out.safetensors"])))


def flip_bit(path: Path, rng: Random) -> None:
    data = bytearray(path.read_bytes())
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def _zeros(size: int) -> bytes:
    """Compress zeros without having them all in memory."""
    block, compressor = bytes(2**20), zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = (compressor.compress(block) + compressor.flush(zlib.Z_FULL_FLUSH)) * (size // len(block))
    end = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed += end.compress(bytes(size % len(block))) + end.flush()
    return b"\x78\x9c" + packed + struct.pack(">HH", size % 65521, 1)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _png(height: int, width: int, extra: bytes = b"") -> tuple[bytes, str]:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    size = height * (3 * width + 1)
    data = _zeros(min(size, 2**31))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + extra + _chunk(b"IDAT", data) + _chunk(b"IEND", b""), ".png"


def _png_text(height: int, width: int) -> tuple[bytes, str]:
    """A PNG of a few pixels with compressed text, or a color profile, of 2 GB."""
    zeros = _zeros(2**31)
    name, content = (b"iCCP", b"x\0\0" + zeros) if height < width else (b"zTXt", b"x\0\0" + zeros)
    return _png(32, 48, _chunk(name, content))


def _tiff(height: int, width: int) -> tuple[bytes, str]:
    data = _zeros(min(3 * height * width, 2**31))
    tags = (
        *((256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 2)),
        *((273, 4, 1, 8), (277, 3, 1, 3), (278, 4, 1, height), (279, 4, 1, len(data))),
    )
    directory = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    start = 8 + len(data)
    return struct.pack("<2sHI", b"II", 42, start) + data + struct.pack("<H", len(tags)) + directory + bytes(4), ".tif"


def _qoi(height: int, width: int) -> tuple[bytes, str]:
    runs = b"\xfd" * min(height * width // 62 + 1, 4_000_000)
    return b"qoif" + struct.pack(">IIBB", width, height, 3, 0) + runs + bytes(7) + b"\1", ".qoi"


def _bmp(height: int, width: int) -> tuple[bytes, str]:
    """Run-length encoded: 255 pixels in two bytes."""
    palette = bytes(1024)
    data = b"\xff\0" * 1000 + b"\0\1"
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(data), 0, 0, 256, 0)
    offset = 14 + len(header) + len(palette)
    return struct.pack("<2sIHHI", b"BM", offset + len(data), 0, 0, offset) + header + palette + data, ".bmp"


def _ppm(height: int, width: int) -> tuple[bytes, str]:
    return b"P6 %d %d 255\n" % (width, height) + bytes(1000), ".ppm"


def _gif(height: int, width: int) -> tuple[bytes, str]:
    """Frames of one pixel on a large canvas."""
    frame = b"!\xf9\4\0\0\0\0\0" + b"," + struct.pack("<HHHH", 0, 0, 1, 1) + b"\0\2\2D\1\0"
    screen = struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    return b"GIF89a" + screen + frame * 5 + b";", ".gif"


def _jpeg2000(height: int, width: int) -> tuple[bytes, str]:
    from PIL import Image

    Image.new("RGB", (48, 32)).save(output := io.BytesIO(), "JPEG2000")
    data = output.getvalue()
    for old, new in (((32, 48), (height, width)), ((48, 32), (width, height))):  # the image header, and the codestream
        data = data.replace(struct.pack(">II", *old), struct.pack(">II", *new), 1)
    return data, ".jp2"


WEIGHTS = {images: 8, videos: 2, repeated_rows: 2, large_tensors: 6, large_models: 6, yaml: 8, flips: 12}
"""Relative frequency of each class."""
