"""Files whose names are not UTF-8, as old archives contain, or have characters that terminals interpret."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from cogvideox import config
from cogvideox.dataset.latents.latent_store import LatentStore
from cogvideox.generation.request.sidecar import Sidecar
from tests.unit.dataset import clips

PROMPT = "a red ball moves to the right on a blue floor"
NAMES = ("caf\udce9", "x\udcff\udcfe", "a\nb", "a \x1b[31mb", "café", "赤い球", "%d 100%")


@pytest.fixture
def data(workdir):
    for number, name in enumerate(NAMES):
        clips.video(workdir / f"data/{name}.mp4", "a ball", seed=number)
        (workdir / f"data/damaged {name}.mp4").write_text("x")
        (workdir / f"data/damaged {name}.txt").write_text("x")
    return workdir / "data"


def test_encode(run, data, model, workdir):
    options = ("--model", model, "--height", 32, "--width", 48, "--sheet", "caf\udce9.png")
    result = run("encode", data, "-o", "store", *options)
    assert result.status == 0 and "store: 7 clips" in result.out and "7 rejected" in result.out, result
    assert "damaged caf\\xe9.mp4: it is damaged" in result.out and "\x1b" not in result.out
    sources = {row.source for row in LatentStore("store").rows}
    assert len(sources) == 7 and str(data / "caf\\xe9.mp4") in sources and str(data / "赤い球.mp4") in sources
    shown = json.loads(Path("caf\udce9.json").read_bytes())["clips"]
    assert str(data / "caf\udce9.mp4") in [clip["source"] for clip in shown]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_tables(run, data, model, kind):
    """Tables contain the bytes of names that are not UTF-8; JSON may contain them as escapes."""
    table = data / f"caf\udce9.{kind}"
    if kind == "csv":
        table.write_bytes(b"video,text\n" + b"".join(b'"%s.mp4",x\n' % os.fsencode(name) for name in NAMES))
    elif kind == "jsonl":
        table.write_text("\n".join(json.dumps({"video": f"{name}.mp4", "text": "x"}) for name in NAMES))
    else:
        names = pa.array([os.fsencode(f"{name}.mp4") for name in NAMES])
        with table.open("wb") as file:
            parquet.write_table(pa.table({"video": names, "text": ["x"] * len(NAMES)}), file)
    result = run("encode", table, "--model", model, "--dry-run")
    assert result.status == 0 and result.out.startswith("7 videos"), result.out


@pytest.mark.parametrize("name", ["caf\udce9", "a \x1b[31mb", "%d 100%"])
def test_inputs_and_outputs_of_generate(run, model, workdir, name):
    clips.video(workdir / f"{name}.mp4", None, num_frames=9)
    options = ("--model", model, "--num-inference-steps", 2, "--strength", 0.5, "--seed", 1)
    result = run("generate", PROMPT, "--video", f"{name}.mp4", *options, "-o", f"out {name}.gif", "--sheet")
    assert result.status == 0, result
    assert config.load(Sidecar, f"out {name}.json").video.path == str(workdir / f"{name}.mp4")
    assert run("generate", "--from", f"out {name}.json", "-o", "again.gif").status == 0
    assert Path("again.gif").read_bytes() == Path(f"out {name}.gif").read_bytes()


def test_folders_of_weights_and_stores_need_names_in_utf_8(run, data, model, workdir):
    (workdir / "caf\udce9").symlink_to(model)
    for command in (
        ("encode", data, "-o", "sto\udce9", "--model", model),
        ("generate", PROMPT, "--model", "./caf\udce9"),
        ("inspect", "caf\udce9"),
        ("train", "toybox-vae", "--out", "ru\udce9"),
    ):
        result = run(*command)
        assert result.status == 2 and "its path is not valid UTF-8" in result.err, result
    assert sorted(path.name for path in workdir.iterdir()) == ["caf\udce9", "data"]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "cp1252"])
def test_any_name_is_printed_in_any_encoding(workdir, encoding):
    """Strict streams, as those of most locales."""
    for name in NAMES:
        clips.video(workdir / f"d/{name}.mp4", "a ball")
        (workdir / f"d/{name}.txt").write_text("x")
        (workdir / f"d/{name}.mp4").write_text("x")
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    command = [sys.executable, "-m", "cogvideox", "encode", "d", "--dry-run"]
    result = subprocess.run(command, env=environment, capture_output=True)
    assert result.returncode == 0 and b"7 rejected" in result.stdout, result.stderr
    assert result.stdout.decode(encoding)
    missing = subprocess.run([*command[:4], b"\xe9\x1b[2J", "--dry-run"], env=environment, capture_output=True)
    assert missing.returncode == 2 and rb"\xe9\x1b[2J" in missing.stderr


def test_curate(run, data, workdir):
    """Manifests hold escaped names, and the table that lists the usable files finds them all the same."""
    result = run("curate", data, "out", "signals={}")
    assert result.status == 0, result
    assert "7 videos" in run("encode", "out", "--dry-run").out
    Path("out/run.json").write_text('{"rows": {"split": "x"}, "seconds": [1]}')  # damaged, and only informative
    assert run("funnel", "out", "--html").status == 0
    for verb in (["curate", data], ["funnel"]):
        assert run(*verb, "caf\udce9").err.startswith("cogvideox: cannot use caf\\xe9: its path is not valid UTF-8")
    assert not Path("caf\udce9").exists()


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_plot(run, workdir, suffix):
    for folder in ("a/caf\udce9", "b/caf\udce9", "a $x_ {"):
        Path(folder).mkdir(parents=True)
        Path(folder, "metrics.jsonl").write_text('{"step": 1, "loss": 1.0, "caf\\udce9": 1.0}')
    name = f"caf\udce9.{suffix}"
    assert run("plot", "a/caf\udce9", "b/caf\udce9", "a $x_ {", "-o", name).status == 0
    assert run("plot", "a/caf\udce9", "-o", name).status == 0
    assert suffix == "png" or "caf\\xe9" in Path(name).read_text()
