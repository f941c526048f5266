"""The valid files that hostile cases damage, and the definition of a case.

`build_corpus` writes the files once, with this version of the package. Nothing else in this module imports the package,
so that cases can be run against any version of it.
"""

import contextlib
import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any

PROMPT = "a red ball moves to the right on a blue floor"
VERBS = ("generate", "encode", "convert", "inspect", "plot", "toybox", "train")


@dataclass
class Case:
    """A command to run in a folder.

    Attributes:
        writes: folders that the command may change even if it fails, except files with "mine" in their name.
        expected: whether the command must succeed (True) or fail (False); None allows both.
        prepare: called just before the command, in its process.
    """

    argv: list[str]
    writes: tuple[str, ...] = ()
    expected: bool | None = None
    prepare: Callable[[], None] = lambda: None


class Corpus:
    """The valid files, in `folder`. `at` is the folder of the case."""

    def __init__(self, folder: Path, at: Path, rng: Random) -> None:
        self.folder, self.at, self.rng = folder, at, rng
        self.model = str(folder / "model")

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def json(self, name: str) -> Any:
        return json.loads(self.read(name))

    def copy(self, name: str) -> Path:
        return Path(shutil.copytree(self.folder / name, self.at / name, symlinks=True))

    def clips(self) -> None:
        for name in ("a.mp4", "a.txt"):
            shutil.copyfile(self.folder / "media" / name, self.at / name)

    def encode(self) -> Case:
        if self.rng.random() < 0.6:
            return Case(["encode", ".", "--dry-run"])
        return Case(["encode", ".", "-o", "store", "--model", self.model], writes=("store",))

    def generate(self, *options: str) -> Case:
        command = ["generate", PROMPT, "-o", "out.mp4", "--num-inference-steps", "1", *options]
        return Case(command if "--model" in options else [*command, "--model", self.model])


def build_corpus(folder: Path) -> Path:
    """Write the valid files in another process, because this one must not start threads before it forks."""
    root = str(Path(__file__).parents[2])
    code = f"from tests.hostile.corpus import _build; _build({str(folder)!r})"
    subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=root, env={**os.environ, "PYTHONPATH": root}, timeout=600
    )
    return folder


def _build(path: str) -> None:
    import numpy as np
    import pyarrow as pa
    import torch
    from PIL import Image
    from pyarrow import parquet
    from safetensors.torch import load_file, save_file

    from cogvideox import config
    from cogvideox.cli.main import main
    from cogvideox.records import Video
    from cogvideox.training.recipes import RECIPES
    from cogvideox.training.vae import trainer
    from tests import tiny, tiny_runs
    from tests.hostile import bombs

    folder = Path(path)
    media, model = folder / "media", tiny.write(folder / "model")
    media.mkdir()
    frames = np.random.default_rng(0).integers(0, 255, (12, 32, 48, 3), dtype=np.uint8)
    Video(frames, fps=8.0).save(media / "a.mp4")
    Video(frames, fps=8.0).save(media / "b.gif")
    (media / "a.txt").write_text(PROMPT)
    for name in ("c.png", "d.jpg", "e.webp", "f.tif", "g.bmp"):
        Image.fromarray(frames[0]).save(media / name)
    for name, codec in (("h.mkv", "mpeg4"), ("i.avi", "mpeg4"), ("j.webm", "libvpx"), ("k.mov", "mjpeg")):
        write_video(media / name, codec, [125 * k for k in range(12)])

    state = load_file(model / "transformer/diffusion_pytorch_model.safetensors")
    for name, zip_format in (("archive.pt", True), ("legacy.pt", False)):
        content = {"module": state, "lr": np.float64(1), "shape": torch.Size([2]), "tied": state}
        torch.save(content, folder / name, _use_new_zipfile_serialization=zip_format)
    (folder / "bomb.pt").write_bytes(_zip_bomb((folder / "archive.pt").read_bytes()))
    layers = [f"transformer_blocks.{n}.attn1.{name}" for n in (0, 1) for name in ("to_q", "to_k", "to_v", "to_out.0")]
    lora = {
        f"transformer.{layer}.lora_{role}.weight": torch.ones(*((2, 32) if role == "A" else (32, 2)))
        for layer in layers
        for role in "AB"
    }
    adapter = {
        "peft_type": "LORA",
        "r": 2,
        "lora_alpha": 2.0,
        "alpha_pattern": {"PATTERN": 1.0},
        "target_modules": layers,
    }
    save_file(
        lora,
        folder / "lora.safetensors",
        {
            "format": "pt",
            "lora_adapter_metadata": json.dumps({f"transformer.{key}": value for key, value in adapter.items()}),
        },
    )

    rows = {
        "file_name": ["a.mp4"] * 3,
        "text": [PROMPT] * 3,
        "when": pa.array([1, 2, None], pa.timestamp("ns")),
        "score": [0.5, float("nan"), None],
    }
    parquet.write_table(
        pa.table({**rows, "blob": [b"\xff", b"", None], "tags": [["a"], [], None]}), folder / "rows.parquet"
    )
    settings = tiny_runs.vae_run(num_steps=2, save_interval=2, validate_interval=0)
    trainer.train(settings, folder / "run")
    overrides = tiny_runs.overrides("toybox-vae", settings)
    without_steps = [override for override in overrides if not override.startswith("run.num_steps=")]
    (folder / "overrides.json").write_text(json.dumps(without_steps))
    main(["encode", str(media), "-o", str(folder / "store"), "--model", str(model)])
    bombs.write_repetitions(folder / "repeated")
    main(["curate", str(media), str(folder / "curated"), "signals={}"])
    short = ["--model", str(model), "--num-inference-steps", "1", "--seed", "1"]
    main(["generate", PROMPT, "-o", str(folder / "replay.mp4"), *short])
    flags = {}
    for verb in VERBS:
        with contextlib.redirect_stdout(io.StringIO()) as stdout:
            main([verb, "--help-all" if verb == "generate" else "--help"])
        listed = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", stdout.getvalue()))
        flags[verb] = sorted(listed - {"--help"}) or ["--help"]
    (folder / "flags.json").write_text(json.dumps(flags))
    names = {recipe: [*config.dotted(config.to_dict(make()))] for recipe, make in RECIPES.items()}
    (folder / "settings.json").write_text(json.dumps(names))


def _zip_bomb(archive: bytes, size: int = 2**31) -> bytes:
    """Return an archive whose pickle unpacks from a few megabytes to `size` bytes of zeros."""
    block, compressor = bytes(2**20), zlib.compressobj(9, zlib.DEFLATED, -15)
    packed_block = compressor.compress(block) + compressor.flush(zlib.Z_FULL_FLUSH)
    packed = packed_block * (size // len(block)) + zlib.compressobj(9, zlib.DEFLATED, -15).flush()
    crc = 0
    for _ in range(size // len(block)):
        crc = zlib.crc32(block, crc)
    name = next(name for name in zipfile.ZipFile(io.BytesIO(archive)).namelist() if name.endswith("data.pkl")).encode()
    numbers = (8, 0, 0, crc, len(packed), size, len(name), 0)
    local = struct.pack("<IHHHHHIIIHH", 0x04034B50, 20, 0, *numbers) + name + packed
    central = struct.pack("<IHHHHHHIIIHHHHHII", 0x02014B50, 20, 20, 0, *numbers, 0, 0, 0, 0, 0) + name
    return local + central + struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 1, 1, len(central), len(local), 0)


def write_video(path: Path, codec: str, times: list[int]) -> None:
    """Write a video with frames at these times in milliseconds."""
    import av
    import numpy as np

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=8)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for k, milliseconds in enumerate(times):
            frame = av.VideoFrame.from_ndarray(np.full((32, 48, 3), 20 * k, dtype=np.uint8), format="rgb24")
            frame.pts, frame.time_base = milliseconds, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
