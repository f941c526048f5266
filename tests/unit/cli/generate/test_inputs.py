"""`cogvideox generate` from images, videos and prompt files."""

import json

import numpy as np
import pytest
from PIL import Image

from cogvideox.cli.generate.prompt_file import read_prompts
from cogvideox.records import Video
from tests import tiny

PROMPT = "a red ball moves to the right on a blue floor"


@pytest.fixture(scope="session")
def image_model(tmp_path_factory):
    return tiny.write(tmp_path_factory.mktemp("models") / "tiny-i2v", "5b-i2v")


@pytest.fixture
def inputs(workdir):
    """A 40x60 image, and a 17-frame video in which it moves sideways."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(workdir / "in.png")
    Video(np.stack([np.roll(pixels, shift, axis=1) for shift in range(17)]), 8.0).save(workdir / "in.mp4")


def names(folder, ending):
    return sorted(path.name for path in folder.glob(f"*{ending}"))


def test_image_to_video_is_repeated_from_its_sidecar(run, image_model, workdir, inputs):
    result = run("generate", PROMPT, "-o", "x.png", "--model", image_model, "--image", "in.png", "--fit", "contain")
    assert result.status == 0, result.err
    sidecar = json.loads((workdir / "x.json").read_text())
    assert sidecar["image"]["path"] == str(workdir / "in.png") and sidecar["fit"] == "contain"
    assert run("generate", "--from", "x.json", "-o", "y.png").status == 0
    assert (workdir / "y.png").read_bytes() == (workdir / "x.png").read_bytes()
    # The image has changed; the new one must be given explicitly.
    Image.new("RGB", (60, 40)).save(workdir / "in.png")
    refused = run("generate", "--from", "x.json", "-o", "z.png")
    assert refused.status == 2 and "has changed since" in refused.err and not (workdir / "z.png").exists()
    assert run("generate", "--from", "x.json", "-o", "z.png", "--image", "in.png").status == 0


@pytest.mark.parametrize(
    ("options", "num_frames"),
    [
        ([], 9),
        (["--strength", "0.5", "--num-frames", 17], 17),
        (["--extend"], 21),
        (["--extend", "--num-frames", 25, "--overlap", 4], 25),
        (["--extend-by", 8], 25),
        (["--invert"], 9),
    ],
    ids=str,
)
def test_videos_from_a_video(run, model, workdir, inputs, options, num_frames):
    result = run("generate", PROMPT, "-o", "x.mp4", "--sheet", "--model", model, "--video", "in.mp4", *options)
    assert result.status == 0, result.err
    assert Video.load(workdir / "x.mp4").frames.shape == (num_frames, 32, 48, 3)
    assert run("generate", "--from", "x.json", "-o", "y.png").status == 0
    # Compare the sheets, not the videos: x264 is not deterministic.
    assert (workdir / "y.png").read_bytes() == (workdir / "x-sheet.png").read_bytes()


def test_options_override_conflicting_ones_of_the_sidecar(run, model, workdir, inputs):
    options = ("-o", "x.mp4", "--model", model, "--video", "in.mp4")
    assert run("generate", PROMPT, *options, "--strength", "0.5", "--smooth-guidance").status == 0
    assert run("generate", "--from", "x.json", "-o", "y.mp4", "--extend", "--dynamic-guidance").status == 0
    sidecar = json.loads((workdir / "y.json").read_text())
    assert sidecar["extend"] and sidecar["dynamic_guidance"] and not {"strength", "smooth_guidance"} & sidecar.keys()
    assert run("generate", "--from", "y.json", "-o", "z.mp4", "--window", "17", "--num-frames", 37).status == 0
    assert json.loads((workdir / "z.json").read_text())["overlap"] == 12
    assert run("generate", "--from", "x.json", "-o", "v.mp4", "--extend-by", 4).status == 0
    sidecar = json.loads((workdir / "v.json").read_text())
    assert (sidecar["num_frames"], sidecar["extend"]) == (21, True) and "extend_by" not in sidecar


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--image", "in.png"], "without image input"),
        (["--image", "gone.png"], "file not found"),
        (["--video", "gone.mp4"], "file not found"),
        (["--video", "noise.mp4"], "it is damaged or not a video"),
        (["--video", "."], "it is a folder"),
        (["--video", "in.mp4", "--strength", "2"], "nearest is 1"),
        (["--video", "in.mp4", "--strength", "0.01"], "nearest is"),
        (["--video", "in.mp4", "--num-frames", "97"], "the nearest is 17"),
        (["--video", "in.mp4", "--extend", "--num-frames", "13"], "the nearest is 21"),
        (["--extend"], "--extend needs an input video"),
        (["--video", "in.mp4", "--extend-by", "3"], "--extend-by 3 is not possible"),
        (["--window", "8"], "5 or 9"),
        (["--guidance-interval", "0.5"], "--guidance-interval needs 2 values"),
        (["--prompts", "noise.mp4"], "PROMPT and --prompts cannot be combined"),
    ],
    ids=str,
)
def test_illegal_inputs_are_errors(run, model, workdir, inputs, options, words):
    (workdir / "noise.mp4").write_bytes(bytes(range(256)) * 8)
    result = run("generate", PROMPT, "-o", "x.mp4", "--model", model, *options)
    assert result.status == 2 and result.err.count("\n") == 1 and words in result.err, result
    assert not (workdir / "x.mp4").exists()


def test_an_image_to_video_model_needs_an_image(run, image_model, workdir, inputs):
    result = run("generate", PROMPT, "-o", "x.mp4", "--model", image_model)
    assert result.status == 2 and "needs an image: pass --image photo.png" in result.err
    (workdir / "broken.png").write_bytes((workdir / "in.png").read_bytes()[:100])
    result = run("generate", PROMPT, "-o", "x.mp4", "--model", image_model, "--image", "broken.png")
    assert result.status == 2 and "broken.png" in result.err and result.err.count("\n") == 1


def test_a_prompt_file_continues_where_it_stopped(run, model, workdir):
    (workdir / "p.txt").write_text("a red ball\n\na green cube stands still\na red ball\n", encoding="utf-8")
    options = ("generate", "--prompts", "p.txt", "--model", model, "-o", "out", "--num-videos", 2)
    result = run(*options)
    assert result.status == 0 and result.out.count("\n") == 6, result
    created = names(workdir / "out", ".mp4")
    assert created == sorted(f"{words}-{seed}{n}.mp4" for words, n in BALL_CUBE_BALL for seed in (0, 1))
    times = {name: (workdir / "out" / name).stat().st_mtime_ns for name in created}
    (workdir / "out" / created[0]).unlink()
    result = run(*options)
    assert result.status == 0 and result.out.count("\n") == 1 and "5 of 6 videos already exist" in result.err
    assert names(workdir / "out", ".mp4") == created
    assert all((workdir / "out" / name).stat().st_mtime_ns == times[name] for name in created[1:])
    # All videos exist; with different options, they are generated again.
    assert run(*options).out == ""
    result = run(*options, "--guidance-scale", 2)
    assert result.status == 2 and "and 5 more exist and have other settings: pass --overwrite" in result.err
    assert run(*options, "--guidance-scale", 2, "--overwrite").out.count("\n") == 6


BALL_CUBE_BALL = (("a-red-ball", ""), ("a-green-cube-stands-still", ""), ("a-red-ball", "-2"))


def test_no_two_prompts_share_a_file(run, model, workdir):
    """The second "a ball" of seed 0 gets a number, and could be confused with "a ball 0" of seed 2."""
    (workdir / "p.txt").write_text("a ball\na ball\na ball 0\n")
    result = run("generate", "--prompts", "p.txt", "--model", model, "--num-videos", 3, "--num-frames", 1)
    assert result.status == 0 and result.out.count("\n") == 9, result
    prompts = [json.loads((workdir / name).read_text())["prompt"] for name in names(workdir, ".json")]
    assert sorted(prompts) == ["a ball"] * 6 + ["a ball 0"] * 3


def test_a_prompt_file_with_images(run, image_model, workdir, inputs):
    (workdir / "p.txt").write_text("a ball@@in.png\na cube @@ in.png\n")
    result = run("generate", "--prompts", "p.txt", "--model", image_model)
    assert result.status == 0, result
    assert names(workdir, ".mp4") == ["a-ball-0.mp4", "a-cube-0.mp4", "in.mp4"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\n  \n", "has no prompts"),
        (b"# balls\n@@in.png\n", "line 2 of p.txt: the prompt is empty"),
        (b"a ball@@gone.png", "line 1 of p.txt: cannot read gone.png"),
        (b"\xff\xfe", "has no prompts"),
        (b"\n\na caf\xe9\n", "line 3 of p.txt: the prompt cannot be used: it is not valid Unicode"),
    ],
    ids=str,
)
def test_broken_prompt_files_are_errors(run, image_model, workdir, inputs, content, words):
    (workdir / "p.txt").write_bytes(content)
    result = run("generate", "--prompts", "p.txt", "--model", image_model, "--image", "in.png", "-o", "out")
    assert result.status == 2 and words in result.err and result.err.count("\n") == 1, result
    assert not (workdir / "out").exists()
    (workdir / "p.txt").write_text("a ball")
    result = run("generate", "--prompts", "p.txt", "--model", image_model, "--image", "in.png", "-o", "out.mp4")
    assert result.status == 2 and "needs a folder" in result.err


def test_a_prompt_file_with_the_options_of_a_sidecar(run, model, workdir):
    assert run("generate", PROMPT, "--model", model, "--seed", 7, "--num-frames", 5, "-o", "x.mp4").status == 0
    (workdir / "p.txt").write_text("a blue cube\n", encoding="utf-8-sig")  # as Windows editors save it
    assert run("generate", "--from", "x.json", "--prompts", "p.txt", "-o", "out").status == 0
    sidecar = json.loads((workdir / "out/a-blue-cube-7.json").read_text())
    assert (sidecar["prompt"], sidecar["num_frames"]) == ("a blue cube", 5)


@pytest.mark.parametrize(
    ("options", "output"),
    [
        (("--video", "in.mp4"), ("-o", "in.mp4")),
        (("--video", "in-2.mp4"), ("-o", "./in.mp4", "--num-videos", 2)),
        (("--video", "in-sheet.png", "--extend"), ("-o", "in.gif", "--sheet")),
    ],
)
def test_inputs_are_not_overwritten(run, model, workdir, inputs, options, output):
    (workdir / "in-2.mp4").write_bytes((workdir / "in.mp4").read_bytes())
    (workdir / "in-sheet.png").write_bytes((workdir / "in.png").read_bytes())
    before = {path: path.read_bytes() for path in workdir.iterdir()}
    result = run("generate", PROMPT, "--model", model, *options, *output)
    assert result.status == 2 and "it is an input of this command" in result.err and result.err.count("\n") == 1, result
    assert {path: path.read_bytes() for path in workdir.iterdir()} == before


def test_bad_lines_of_a_prompt_file_do_not_stop_the_others(run, image_model, workdir, inputs):
    (workdir / "broken.png").write_bytes((workdir / "in.png").read_bytes()[:100])
    lines = [b"a red ball", b"a caf\xe9", b"a green cube@@gone.png", b"a cone " * 300, b"@@in.png", b"# comment"]
    lines += [b"a cube@@broken.png", b"", b"a\xe2\x80\xa8small\x0cring", b"\\# one"]
    (workdir / "p.txt").write_bytes(b"\n".join(lines))
    options = ("generate", "--prompts", "p.txt", "--model", image_model, "--image", "in.png", "-o", "out")
    result = run(*options)
    assert result.status == 2 and result.err.endswith("failed, for the reasons above: 2, 3, 4, 5, 7\n"), result.err
    for number in (2, 3, 4, 5, 7):
        assert f"cogvideox: line {number}" in result.err
    assert names(workdir / "out", ".mp4") == ["a-red-ball-0.mp4", "a-small-ring-0.mp4", "one-0.mp4"]
    prompts = [json.loads((workdir / "out" / name).read_text())["prompt"] for name in names(workdir / "out", ".json")]
    assert prompts == ["a red ball", "a\u2028small\x0cring", "# one"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_prompt_files_of_any_unicode_encoding(tmp_path, encoding):
    (tmp_path / "p.txt").write_bytes("a café\r\n# one\r\n\r\na ball @@ b.png".encode(encoding))
    first, second = read_prompts(tmp_path / "p.txt")
    assert (first.number, first.prompt, first.image) == (1, "a café", None)
    assert (second.number, second.prompt, second.image) == (4, "a ball", tmp_path / "b.png")
