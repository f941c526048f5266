"""`cogvideox toybox`: what it writes, what it says, and what it refuses."""

import pytest

from cogvideox import Video

SMALL = ("--num-frames", 9, "--height", 64, "--width", 64, "--fps", 8)


def test_renders_videos_with_captions_and_a_sheet(run, here):
    ran = run("toybox", "--num-scenes", 3, "--seed", 5, "--grammar", "full", "--sheet", *SMALL)
    assert ran.status == 0
    for seed in (5, 6, 7):
        video = Video.load(here / f"toybox-{seed}.mp4")
        assert video.frames.shape == (9, 64, 64, 3) and video.fps == 8
        assert (here / f"toybox-{seed}.txt").read_text().strip() in ran.out
    assert (here / "toybox-sheet.png").is_file()


def test_one_picture(run, here):
    assert run("toybox", "color=red", "shape=ball", "--num-frames", 1, "-o", "a/red.png").status == 0
    assert Video.load(here / "a/red.png").frames.shape == (1, 128, 128, 3)
    caption = (here / "a/red.txt").read_text()
    assert "moves" not in caption and any(word in caption for word in ("ball", "sphere", "orb"))


def test_captions_write_nothing(run, here):
    ran = run("toybox", "--caption", "motion=left", "--num-scenes", 2)
    assert [line.split()[:2] for line in ran.out.splitlines()] == [
        [seed, style] for seed in "01" for style in ("short", "plain", "dense")
    ]
    assert "left" in ran.out and not list(here.iterdir())


def test_judges_a_video_by_the_prompt_beside_it(run, here):
    run("toybox", "color=red", "shape=cube", "motion=up", "-o", "cube.mp4", *SMALL)
    ran = run("toybox", "--judge", "cube.mp4")
    assert ran.status == 0 and ran.out.splitlines()[-1].endswith("facts right") and "wrong" not in ran.out
    ran = run("toybox", "--judge", "cube.mp4", "--prompt", "a blue cube moves up")
    assert ran.out.splitlines()[-1] == "3 of 4 facts right" and "wrong: red" in ran.out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["color=rad"], "has no color 'rad'; choose one of red"),
        (["color"], "fixes no fact"),
        (["seed=3"], "facts are color, shape"),
        (["--grammar", "huge"], "choose one of core, full"),
        (["--style", "long"], "choose one of short, plain, dense"),
        (["--num-frames", "0"], "--num-frames 0 is below the smallest legal value, 1"),
        (["--height", "8"], "--height 8 is below"),
        (["--fps", "0"], "--fps 0 is not between 0.01 and 1000"),
        (["--fps", "nan"], "--fps nan is not between"),
        (["--fps", "0.0001"], "--fps 0.0001 is not between"),
        (["--seed", "-1"], "--seed -1 is below the smallest legal value, 0"),
        (["color=red", "color=blue"], "color is fixed twice, as red and as blue"),
        (["color=teal"], "the full grammar has it"),
        (["count=two"], "the full grammar has it"),
        (["--num-scenes", "2", "-o", "x.mp4"], "need a folder"),
        (["-o", "x.txt"], "x.txt"),
        (["--judge", "none.mp4"], "there is no video none.mp4"),
        (["--judge", "."], "there is no video ."),
        (["--judge", "none.mp4", "color=red"], "color=red means nothing together with --judge"),
        (["--prompt", "a red ball"], "say which with --judge"),
        (["--caption", "--sheet"], "--sheet means nothing together with --caption"),
        (["--judge", "none.mp4", "--prompt", "a red ball"], "none.mp4"),
        (["shape=ball", "motion=spin", "--grammar", "full"], "excludes it"),
    ],
)
def test_bad_input_is_one_sentence(run, here, arguments, sentence):
    ran = run("toybox", *arguments)
    assert ran.status == 2 and sentence in ran.err and ran.err.count("\n") == 1
    assert not list(here.iterdir())


def test_a_prompt_about_something_else(run):
    run("toybox", "-o", "toy.mp4", *SMALL)
    ran = run("toybox", "--judge", "toy.mp4", "--prompt", "a dog barks")
    assert ran.status == 2 and "names nothing of the toybox" in ran.err
