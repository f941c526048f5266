"""`cogvideox encode`: summary, store and errors."""

import json
import os
import random
import re

import pytest

from cogvideox.cli.encode import clip_format, parser
from cogvideox.dataset.latents.latent_store import LatentStore
from cogvideox.pretrained.model_spec import read_spec
from tests import tiny
from tests.unit.dataset import clips


@pytest.fixture
def data(workdir):
    clips.video(workdir / "data/a.mp4", "a red ball", num_frames=18)
    clips.video(workdir / "data/b.mp4", "a green cube", fps=16.0, num_frames=18, seed=1)
    clips.image(workdir / "data/c.png", "one small thing")
    return workdir / "data"


def test_a_folder_is_encoded_to_a_store(run, data, model, workdir):
    result = run("encode", data, "-o", "store", "--model", model, "--max-size", "48x32", "--sheet", "see.png")
    assert result.status == 0, result.err
    for line in (
        "2 videos and 1 image (a.mp4 and a.png + a.txt)",
        "  seconds   1.125 to 2.25 (median 1.688), 3.4 in total",
        "  fps       8 (1x), 16 (1x)",
        "  sizes     48x32",
        "  captions  3 words",
        "  the model sees 3 windows at 8 fps: 9 frames; 1 image",
        "  in sizes  48x32",
        "store: 4 clips, 4 clips and 4 captions newly encoded",
    ):
        assert line in result.out, line
    assert len(LatentStore(workdir / "store")) == 4
    shown = json.loads((workdir / "see.json").read_text())["clips"]
    assert [clip["caption"] for clip in shown] == ["a red ball", "a red ball", "a green cube", "one small thing"]
    repeated = run("encode", data, "-o", "store", "--model", model, "--max-size", "48x32", "--windows", "first")
    assert "store: 3 clips, 1 clips and 0 captions newly encoded" in repeated.out


def test_rejected_files_are_listed_and_the_others_encoded(run, data, model):
    reasons = clips.write_unusable(data)
    result = run("encode", data, "-o", "store", "--model", model, "--max-size", "48x32", "--num-frames", 17)
    assert result.status == 0 and f"{len(reasons)} rejected" in result.out
    for name, reason in reasons.items():
        assert any(name in line and reason in line for line in result.out.splitlines()), name


def summary_counts(out: str) -> dict[str, int]:
    """The numbers of usable and rejected files that a summary prints."""
    actual = re.findall(r"(?m)^(\d+) (video|image)s?\b|and (\d+) (image)s? \(|^(\d+) (rejected)$", out)
    return {name: int(number) for match in actual for number, name in [tuple(filter(None, match))]}


@pytest.mark.parametrize("seed", range(6))
def test_usable_and_rejected_files_add_up_to_all_files(run, model, workdir, seed):
    """Whatever stage rejects a file: its name, its content, its caption, its length, or a duplicate."""
    rng = random.Random(seed)
    kinds = rng.choices(("good", "image", "long", "empty", "short", "copy", "latin", "fifo", "text"), k=6)
    clips.video(workdir / "data/first.mp4", "a ball", num_frames=18)
    for number, kind in enumerate(kinds):
        path = workdir / f"data/{number}.mp4"
        caption = {"long": "a ball " * 500, "empty": " "}.get(kind, "a ball")
        if kind == "image":
            clips.image(path.with_suffix(".png"), "a cube", seed=number)
        else:
            num_frames, content = 3 if kind == "short" else 18, 0 if kind == "copy" else number + 1
            clips.video(path, caption, num_frames=num_frames, seed=content)
        if kind == "latin":
            path.with_suffix(".txt").write_bytes(b"caf\xe9")
        elif kind in ("fifo", "text"):
            path.unlink()
            os.mkfifo(path) if kind == "fifo" else path.write_text("text")
    usable = 1 + sum(kind in ("good", "image") for kind in kinds)
    result = run("encode", workdir / "data", "--model", model, "--dry-run")
    counts = summary_counts(result.out)
    assert counts.get("video", 0) + counts.get("image", 0) == usable, (kinds, result.out)
    assert counts.get("rejected", 0) == 7 - usable, (kinds, result.out)
    rows = {f"{number}.mp4": "" for number in range(6)} | {"first.mp4": ""}
    lines = [json.dumps({"file_name": name, "caption": "a ball"}) for name in [*rows, "gone.mp4", "first.mp4", ""]]
    (workdir / "data/metadata.jsonl").write_text("\n".join([*lines, "{"]))
    counts = summary_counts(run("encode", workdir / "data", "--model", model, "--dry-run").out)
    assert sum(counts.values()) == len(lines) + 1, counts


def test_a_dry_run_writes_nothing(run, data, model, workdir):
    clips.video(data / "d.mp4", "a ball", num_frames=2)
    result = run("encode", data, "-o", "store", "--model", model, "--dry-run")
    assert result.status == 0 and "estimated store size:" in result.out and "it is too short" in result.out
    assert not (workdir / "store").exists()


def test_a_dry_run_lists_captions_that_are_too_long(run, data, model):
    clips.video(data / "d.mp4", "a ball " * 500)
    result = run("encode", data, "--model", model, "--dry-run", "--sheet", "see.png")
    assert result.status == 0 and "1 rejected" in result.out and "d.mp4: its caption cannot be used" in result.out
    assert "the model sees 3 windows" in result.out and "see.png shows four frames of 4 clips" in result.out


def test_a_sheet_of_no_clips_is_an_error_with_the_reasons(run, model, workdir):
    clips.video(workdir / "bad/d.mp4", "a ball " * 500)
    result = run("encode", workdir / "bad", "--model", model, "--sheet", "see.png")
    assert (
        result.status == 2
        and "has no usable clips, so see.png is not written" in result.err
        and "its caption cannot be used" in result.out
    )


def test_a_folder_without_usable_clips_is_an_error(run, model, workdir):
    clips.video(workdir / "bad/d.mp4", "a ball " * 500)
    result = run("encode", workdir / "bad", "-o", "store", "--model", model)
    assert result.status == 2 and not (workdir / "store").exists()
    assert "1 rejected" in result.out and "bad has no usable clips, so store is not written" in result.err
    assert run("encode", workdir / "bad", "--model", model, "--dry-run").status == 0
    for shard in ("0/2", "1/2"):
        result = run("encode", workdir / "bad", "-o", "store", "--model", model, "--shard", shard)
    assert result.status == 2 and "no clip of" in result.err


def test_the_last_job_writes_the_index(run, data, model, workdir):
    options = ("-o", "store", "--model", model, "--height", 32, "--width", 48)
    first = run("encode", data, *options, "--shard", "1/2")
    assert "this is shard 1/2; the index is written when all shards are done" in first.out
    assert "store: 4 clips" in run("encode", data, *options, "--shard", "0/2").out
    assert len(LatentStore(workdir / "store")) == 4


def test_first_frames_are_encoded_for_image_to_video_models(run, data, model, workdir):
    result = run("encode", data, "-o", "store", "--model", model, "--max-size", "48x32", "--first-frames", 2)
    assert "4 clips and 4 captions newly encoded, with the first frames of 4, in" in result.out
    assert LatentStore(workdir / "store")[0].image_mean.shape[1] == 2
    image_model = read_spec(tiny.write(workdir / "image-model", "5b-i2v"))
    for options, requested, spec in (
        ([], 4, image_model),
        (["--first-frames", "0"], 0, image_model),
        ([], 0, read_spec(model)),
    ):
        assert clip_format(parser().parse(["data", *options]), spec).first_frames == requested


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "encode needs a FOLDER of videos or images"),
        (["none"], "missing -o/--output STORE"),
        (["none", "-o", "s"], "none is not a folder or table of videos or images"),
        (["data", "-o", "s", "--model", "nothing"], "there is no model 'nothing'"),
        (["data", "-o", "s", "--shard", "2/2"], "shard 2/2 does not exist"),
        (["data", "-o", "s", "--workers", "-1"], "--workers -1 must be 0 or more"),
        (["data", "-o", "s", "--max-size", "64"], "write WIDTHxHEIGHT"),
        (["data", "-o", "s", "--max-size", "64x64", "--height", "64"], "use only one"),
        (["data", "-o", "s", "--height", "64"], "only one of them is set"),
        (["data", "-o", "s", "--height", "60", "--width", "64"], "--height 60 is not a multiple of 16"),
        (["data", "-o", "s", "--num-frames", "8"], "the nearest: 5 or 9"),
        (["data", "-o", "s", "--first-frames", "-1"], "--first-frames -1 must be 0 or more"),
        (["data", "-o", "s", "--sheet", "x.jpg"], "must end in .png"),
        (["data", "-o", "data/a.mp4"], "part of its path is a file"),
    ],
)
def test_invalid_arguments_are_rejected(run, data, options, message):
    result = run("encode", *options)
    assert result.status == 2 and message in result.err and result.err.count("\n") == 1, result.err
