"""What the package reads is what the FFmpeg command line shows: every frame and every timestamp of a generated corpus.

`python -m tests.media.test_corpus` prints a table: clips, frames and the largest differences by group.
"""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from tests.media import compare, corpus

PARTS = 4  # of each group, so that workers share the clips

if shutil.which("ffmpeg") is None and not os.environ.get("CI"):
    pytest.skip("the command ffmpeg is not installed", allow_module_level=True)


def compare_clips(clips: list[corpus.Clip], folder: Path) -> tuple[list[compare.Result], list[str]]:
    """Compare clips; return the results, and a description of each problem."""
    results = []
    for index, clip in enumerate(clips):
        clip_folder = folder / str(index)
        clip_folder.mkdir()
        results.append(compare.compare(clip, clip_folder))
        shutil.rmtree(clip_folder)
    return results, [f"{clip.name}: {result.problem}" for clip, result in zip(clips, results) if result.problem]


def summary(name: str, results: list[compare.Result]) -> str:
    """Return a line of the table."""
    difference, late = max(result.difference for result in results), max(result.time for result in results)
    frames = sum(result.num_frames for result in results)
    return (
        f"{name:22} {len(results):5} clips {frames:6} frames   difference {difference:.2f}/255   time {late:.2f} frames"
    )


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("group", corpus.GROUPS, ids=lambda group: group.__name__)
def test_frames_and_times_are_those_of_ffmpeg(tmp_path, group, part):
    clips = list(group())[part::PARTS]
    results, problems = compare_clips(clips, tmp_path)
    print(summary(group.__name__, results))
    assert problems == []


if __name__ == "__main__":
    everything: list[compare.Result] = []
    for generate in corpus.GROUPS:
        with tempfile.TemporaryDirectory() as scratch:
            measured, wrong = compare_clips(list(generate()), Path(scratch))
        everything += measured
        print(summary(generate.__name__, measured), *wrong, sep="\n", flush=True)
    print(summary("total", everything))
