"""Runs: generation, measurement, failures, resuming."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from cogvideox.errors import UserError
from cogvideox.evaluation.compare import compare
from cogvideox.evaluation.results import EvaluationResults
from cogvideox.evaluation.run import EvaluationProgress, evaluate
from cogvideox.evaluation.scorer import Item, Metric, Ratio
from cogvideox.evaluation.suite import Suite, SuiteOptions, numbered
from cogvideox.evaluation.suites.registry import build_suite
from cogvideox.evaluation.videos import videos_of_folder, videos_of_model
from cogvideox.generation.request.request import LoadOptions
from cogvideox.records import Video
from cogvideox.toybox.render.renderer import render_scene
from cogvideox.toybox.scenes.sampler import sample_scene

STEPS = {"num_inference_steps": 1, "guidance_scale": 1.0}


@dataclass(frozen=True)
class FrameCount:
    """A scorer that counts frames, and fails on videos of one."""

    log: str
    name: str = "frames"
    groups: tuple[str, ...] = ()
    metrics: tuple[Metric, ...] = (Metric("frames/mean", Ratio("frames")),)
    version: int = 1

    def settings(self) -> dict[str, Any]:
        return {"version": self.version}

    def open(self, worker: int):
        def measure(file, item):
            with Path(self.log).open("a") as log:
                log.write(f"{item.id}\n")
            if len(file.video.frames) == 1:
                raise UserError("it has one frame")
            return {"frames": len(file.video.frames)}

        return measure


def folder_of_videos(folder: Path, lengths: list[int]) -> None:
    folder.mkdir(exist_ok=True)
    for i, length in enumerate(lengths):
        frames = render_scene(sample_scene(i), num_frames=length, height=32, width=32, fps=8.0).numpy()
        Video(frames, 8.0).save(folder / f"a scene-{i}.mp4")


def suite(log: Path, version: int = 1) -> Suite:
    return Suite("frames", (), (FrameCount(str(log), version=version),), lambda prompt: Item("", prompt))


def test_failures_are_counted_and_retried_and_measurements_are_not_repeated(tmp_path: Path):
    log, source, output = tmp_path / "log", tmp_path / "videos", tmp_path / "out"
    folder_of_videos(source, [3, 5, 1])
    chosen = suite(log)
    results = evaluate(videos_of_folder(chosen, source), chosen, output)
    (score,) = results.scores
    assert score.value == 4.0 and score.protocol["num_videos"] == 2 and score.protocol["num_failures"] == 1
    assert results.videos[2].errors == {"frames": "it has one frame"}
    evaluate(videos_of_folder(chosen, source), chosen, output)
    assert len(log.read_text().splitlines()) == 4  # only the failure is tried again
    changed = suite(log, version=2)
    evaluate(videos_of_folder(changed, source), changed, output)
    assert len(log.read_text().splitlines()) == 7  # other settings, other measurements
    assert EvaluationResults.load(output).scores[0].value == 4.0


def test_a_torn_line_is_ignored(tmp_path: Path):
    log, source, output = tmp_path / "log", tmp_path / "videos", tmp_path / "out"
    folder_of_videos(source, [3, 5])
    chosen = suite(log)
    before = evaluate(videos_of_folder(chosen, source), chosen, output)
    file = output / "measurements.jsonl"
    file.write_bytes(file.read_bytes()[:-9])
    after = evaluate(videos_of_folder(chosen, source), chosen, output)
    assert after == before and len(log.read_text().splitlines()) == 3
    assert evaluate(videos_of_folder(chosen, source), chosen, output) == before
    assert len(log.read_text().splitlines()) == 3


@pytest.mark.slow
def test_worker_processes_give_the_same_results(tmp_path: Path):
    source = tmp_path / "videos"
    folder_of_videos(source, [9, 9, 9])
    for file in source.iterdir():
        file.with_suffix(".txt").write_text("a red ball moves left on a gray floor")
    chosen = build_suite("toybox", SuiteOptions(num_prompts=1))
    alone = evaluate(videos_of_folder(chosen, source), chosen, tmp_path / "a")
    split = evaluate(videos_of_folder(chosen, source), chosen, tmp_path / "b", workers=2)
    assert alone == split and alone.scores


def test_generated_videos_are_kept(tmp_path: Path):
    chosen = build_suite("toybox", SuiteOptions(num_prompts=2, settings={"groups": "core"}))
    videos = videos_of_model(chosen, STEPS, LoadOptions(), tmp_path)
    results = evaluate(videos, chosen, tmp_path)
    assert not any(map(videos.is_missing, videos.items)) and len(results.videos) == 2
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "videos").iterdir()}
    progress: list[EvaluationProgress] = []
    assert evaluate(videos, chosen, tmp_path, on_progress=progress.append) == results
    assert not progress
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "videos").iterdir()} == files
    protocol = results.scores[0].protocol
    assert protocol["num_inference_steps"] == 1 and protocol["guidance_scale"] == 1.0 and len(protocol["weights"]) == 16
    result = compare(EvaluationResults.load(tmp_path), results)  # builds the suite from its recorded options
    assert result.num_pairs == 2 and all(row.difference.value == 0 for row in result.comparisons)
    other = videos_of_model(chosen, {**STEPS, "num_inference_steps": 2}, LoadOptions(), tmp_path)
    with pytest.raises(UserError, match="num_inference_steps=1 instead of 2"):
        evaluate(other, chosen, tmp_path)


def test_a_folder_is_used_by_one_evaluation_at_a_time(tmp_path: Path):
    from filelock import FileLock

    source = tmp_path / "videos"
    folder_of_videos(source, [3])
    chosen = suite(tmp_path / "log")
    with FileLock(tmp_path / "run.lock"), pytest.raises(UserError, match="in use"):
        evaluate(videos_of_folder(chosen, source), chosen, tmp_path)


def test_items_are_numbered_with_consecutive_seeds():
    items = numbered([Item("", "a"), Item("", "b")], 2, 7)
    assert [(item.id, item.prompt, item.sample, item.seed) for item in items] == [
        ("0-0", "a", 0, 7),
        ("0-1", "a", 1, 8),
        ("1-0", "b", 0, 9),
        ("1-1", "b", 1, 10),
    ]
    assert Suite("s", items, (), lambda prompt: None).digest != Suite("s", items[:3], (), lambda prompt: None).digest
    assert replace(items[0], seed=8) != items[0]


@pytest.mark.slow
def test_a_killed_run_gives_the_same_results(tmp_path: Path):
    """SIGKILL three times, at different moments."""
    command = [
        *(sys.executable, "-m", "cogvideox", "evaluate", "toybox", "--num-prompts", "4", "--set", "groups=core"),
        *("--num-inference-steps", "8", "--guidance-scale", "1", "-o"),
    ]
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)
    killed = tmp_path / "killed"
    for number in range(3):
        process = subprocess.Popen([*command, str(killed)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and len(list(killed.glob("videos/*.json"))) <= number:
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert 0 < len(list(killed.glob("videos/*.json"))) < 4
    subprocess.run([*command, str(killed)], check=True, capture_output=True)
    whole, resumed = (json.loads((folder / "results.json").read_text()) for folder in (tmp_path / "whole", killed))
    assert whole == resumed
    for file in (tmp_path / "whole").glob("videos/*.mp4"):
        assert file.read_bytes() == (killed / "videos" / file.name).read_bytes()
