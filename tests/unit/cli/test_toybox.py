"""`cogvideox toybox`: rendering, captions, the judge, errors."""

import pytest

from cogvideox import Video

SMALL = ("--num-frames", 9, "--height", 64, "--width", 64, "--fps", 8)


def test_renders_videos_with_captions_and_a_sheet(run, workdir):
    result = run("toybox", "--num-scenes", 3, "--seed", 5, "--grammar", "full", "--sheet", *SMALL)
    assert result.status == 0
    for seed in (5, 6, 7):
        video = Video.load(workdir / f"toybox-{seed}.mp4")
        assert video.frames.shape == (9, 64, 64, 3) and video.fps == 8
        assert (workdir / f"toybox-{seed}.txt").read_text().strip() in result.out
    assert (workdir / "toybox-sheet.png").is_file()


def test_a_single_frame_is_an_image(run, workdir):
    assert run("toybox", "color=red", "shape=ball", "--num-frames", 1, "-o", "a/red.png").status == 0
    assert Video.load(workdir / "a/red.png").frames.shape == (1, 128, 128, 3)
    caption = (workdir / "a/red.txt").read_text()
    assert "moves" not in caption and any(word in caption for word in ("ball", "sphere", "orb"))


def test_printing_captions_writes_no_files(run, workdir):
    result = run("toybox", "--caption", "motion=left", "--num-scenes", 2)
    assert [line.split()[:2] for line in result.out.splitlines()] == [
        [seed, style] for seed in "01" for style in ("short", "plain", "dense")
    ]
    assert "left" in result.out and not list(workdir.iterdir())


def test_a_video_is_judged_by_the_prompt_next_to_it(run, workdir):
    run("toybox", "color=red", "shape=cube", "motion=up", "-o", "cube.mp4", *SMALL)
    result = run("toybox", "--judge", "cube.mp4")
    assert result.status == 0 and result.out.splitlines()[-1].endswith("facts right") and "wrong" not in result.out
    result = run("toybox", "--judge", "cube.mp4", "--prompt", "a blue cube moves up")
    assert result.out.splitlines()[-1] == "3 of 4 facts right" and "wrong: red" in result.out


def test_large_videos_are_reduced_before_they_are_judged(run, workdir):
    run("toybox", "color=red", "shape=cube", "motion=up", "-o", "cube.mp4", *SMALL)
    video = Video.load("cube.mp4")
    large = video.frames.repeat(12, axis=1).repeat(12, axis=2)
    assert min(large.shape[1:3]) >= 512
    Video(large, video.fps).save("large.mp4")
    result = run("toybox", "--judge", "large.mp4", "--prompt", "a red cube moves up")
    assert "wrong" not in result.out and result.status == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["color=rad"], "has no color 'rad'; choose one of red"),
        (["color"], "is not FACT=WORD"),
        (["seed=3"], "facts are color, shape"),
        (["--grammar", "huge"], "choose one of core, full"),
        (["--style", "long"], "choose one of short, plain, dense"),
        (["--num-frames", "0"], "--num-frames 0 must be 1 or more"),
        (["--height", "8"], "--height 8 must be 16 or more"),
        (["--fps", "0"], "--fps 0 must be from 0.01 to 1000"),
        (["--fps", "nan"], "--fps nan must be from"),
        (["--fps", "0.0001"], "--fps 0.0001 must be from"),
        (["--seed", "-1"], "--seed -1 must be 0 or more"),
        (["color=red", "color=blue"], "color is set twice, to red and to blue"),
        (["color=teal"], "the full grammar has it"),
        (["count=two"], "the full grammar has it"),
        (["--num-scenes", "2", "-o", "x.mp4"], "need a folder"),
        (["-o", "x.txt"], "x.txt"),
        (["--judge", "none.mp4"], "cannot read none.mp4: file not found"),
        (["--judge", "."], "cannot read .: file not found"),
        (["--judge", "none.mp4", "color=red"], "color=red has no effect with --judge"),
        (["--prompt", "a red ball"], "add --judge VIDEO"),
        (["--caption", "--sheet"], "--sheet has no effect with --caption"),
        (["--judge", "none.mp4", "--prompt", "a red ball"], "none.mp4"),
        (["shape=ball", "motion=spin", "--grammar", "full"], "excludes it"),
    ],
)
def test_invalid_arguments_are_rejected(run, workdir, arguments, sentence):
    result = run("toybox", *arguments)
    assert result.status == 2 and sentence in result.err and result.err.count("\n") == 1
    assert not list(workdir.iterdir())


def test_a_prompt_without_facts_is_an_error(run):
    run("toybox", "-o", "toy.mp4", *SMALL)
    result = run("toybox", "--judge", "toy.mp4", "--prompt", "a dog barks")
    assert result.status == 2 and "states no fact of the toy world" in result.err
