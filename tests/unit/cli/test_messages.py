"""Errors name options as they are typed on the command line."""

import numpy as np
import pytest

from cogvideox.records import Video


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["encode", ".", "--num-frames", "10", "--dry-run"], "--num-frames 10 is not allowed"),
        (["encode", ".", "--height", "50", "--width", "64", "--dry-run"], "--height 50 is not a multiple"),
        (["encode", ".", "--first-frames", "-1", "--dry-run"], "--first-frames -1 must be 0 or more"),
        (["evaluate", "toybox", "-o", "x", "--num-frames", "10"], "--num-frames 10 is not allowed"),
        (["evaluate", "toybox", "-o", "x", "--guidance-scale", "0"], "--guidance-scale 0.0 must be 1 or more"),
        (["generate", "a", "--extend-by", "8"], "--extend-by needs an input video: pass --video clip.mp4"),
        (["encode", ".", "--norm-statistics", "frame"], "--norm-statistics frame must be one of 'clip', 'chunk'"),
        (["encode", ".", "--workers", "many"], "--workers many must be an integer"),
        (["encode", ".", "--fps", "fast"], "--fps fast must be a number"),
        (["encode", ".", "-o"], "--output needs a value"),
        (["generate", "a", "--guidance-interval", "0"], "--guidance-interval needs 2 values"),
    ],
    ids=str,
)
def test_errors_name_flags(run, arguments, message):
    result = run(*arguments)
    assert result.status == 2 and result.err.startswith(f"cogvideox: {message}"), result


def test_a_folder_without_captions_says_where_they_are_written(run, workdir):
    Video(np.zeros((9, 64, 64, 3), np.uint8), 8.0).save(workdir / "clips" / "horse.mp4")
    result = run("encode", "clips", "--dry-run")
    assert "1 rejected" in result.out and "such as clips/horse.txt, or in a table" in result.out
    result = run("encode", "clips", "--dry-run", "--sheet", "x.png")
    assert result.status == 2 and "clips has no usable clips, so x.png is not written" in result.err
