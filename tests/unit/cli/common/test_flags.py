"""Messages name options as on the command line."""

import pytest

from cogvideox.cli.common.flags import to_flags


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            "num_frames=48 is not allowed; the nearest: 45 or 49",
            "--num-frames 48 is not allowed; the nearest: 45 or 49",
        ),
        ("the nearest: height=480, width=720", "the nearest: --height 480, --width 720"),
        ("x needs an image: set `image`", "x needs an image: pass --image photo.png"),
        ("`strength` needs an input video", "--strength needs an input video"),
        ("it fits with sequential_guidance", "it fits with --sequential-guidance"),
        (
            "null_text has no effect with guidance_scale=1, which",
            "--null-text has no effect with --guidance-scale 1, which",
        ),
        ("the video has 9 frames, and memory is free", "the video has 9 frames, and memory is free"),
        ("unknown setting target.height=3 in run.num_frames=4", "unknown setting target.height=3 in run.num_frames=4"),
        ("out/seed=7.mp4 exists", "out/seed=7.mp4 exists"),
        ("seed=7.mp4 and fps=8/x.mp4 exist", "seed=7.mp4 and fps=8/x.mp4 exist"),
        ("image=photo.png is not allowed", "--image photo.png is not allowed"),
        ("guidance_scale=6.5 is", "--guidance-scale 6.5 is"),
        ("/a/num_frames/b=1.json and num_frames.txt", "/a/num_frames/b=1.json and num_frames.txt"),
    ],
)
def test_names_become_flags(message, expected):
    assert to_flags(message) == expected
