"""Evaluations that must not be mixed, and measurements that have no score."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from cogvideox.errors import UserError
from cogvideox.evaluation import run
from cogvideox.evaluation.compare import compare
from cogvideox.evaluation.export import export_vbench
from cogvideox.evaluation.intervals import estimate
from cogvideox.evaluation.protocol import Protocol
from cogvideox.evaluation.results import EvaluationResults, summarize
from cogvideox.evaluation.run import evaluate
from cogvideox.evaluation.scorer import Item, Metric, Ratio
from cogvideox.evaluation.suite import Suite, SuiteOptions
from cogvideox.evaluation.suites.reconstruction import videos_to_reconstruct
from cogvideox.evaluation.suites.registry import build_suite
from cogvideox.evaluation.videos import VideoSet, videos_of_folder
from cogvideox.records import Video


def evaluated(folder: Path, mean: float, reference: Path | None = None, num_videos: int = 20) -> EvaluationResults:
    """Results of the suite distribution with normally distributed features."""
    settings = {} if reference is None else {"reference": str(reference)}
    suite = build_suite("distribution", SuiteOptions(settings=settings))
    items = tuple(Item(str(i), f"prompt {i}") for i in range(num_videos))
    rng = np.random.default_rng(num_videos + int(mean))
    features = {item.id: {"features": rng.normal(mean, size=4).tolist(), "weights": ""} for item in items}
    paths = {item.id: folder / f"{item.id}.mp4" for item in items}
    folder.mkdir()
    summarize(suite, VideoSet(items, paths, Protocol(suite="x"), folder=folder), {"frechet": features}, {}).save(folder)
    return EvaluationResults.load(folder)


def test_distances_to_different_references_are_not_compared(tmp_path):
    evaluated(tmp_path / "first", 0)
    evaluated(tmp_path / "second", 5)
    a = evaluated(tmp_path / "a", 0, tmp_path / "first")
    b = evaluated(tmp_path / "b", 1, tmp_path / "first")
    other = evaluated(tmp_path / "other", 5, tmp_path / "second")
    assert compare(a, b).num_pairs
    with pytest.raises(UserError, match="evaluate both again"):
        compare(a, other)


def test_a_set_with_the_smallest_size_has_a_score_without_an_interval(tmp_path):
    evaluated(tmp_path / "reference", 0)
    results = evaluated(tmp_path / "small", 0, tmp_path / "reference", num_videos=8)
    assert results.scores and all(score.interval is None for score in results.scores)
    assert EvaluationResults.load(tmp_path / "small") == results
    evaluated(tmp_path / "five", 0, num_videos=5)
    with pytest.raises(UserError, match="a reference needs 8"):
        evaluated(tmp_path / "unusable", 0, tmp_path / "five")


def test_a_value_that_is_not_a_proportion_has_no_wilson_interval():
    metric = Metric("flicker", Ratio("flicker"), unit="levels")
    score = estimate(metric, [{"flicker": 0.0}] * 10, [str(i) for i in range(10)])
    assert "Wilson" not in score.method


def test_reconstruction_rejects_a_folder_with_videos_of_another_size(tmp_path):
    def render(size: int) -> None:
        settings = {"num_frames": "5", "height": str(size), "width": str(size)}
        suite = build_suite("reconstruction", SuiteOptions(num_prompts=1, settings=settings))
        _, videos = videos_to_reconstruct(suite, "toybox", tmp_path)

        run._check_same_run(videos, tmp_path)

    render(32)
    render(32)
    with pytest.raises(UserError, match="different run"):
        render(64)


@dataclass(frozen=True)
class NotANumber:
    """A scorer that measures NaN."""

    name: ClassVar[str] = "nan"
    groups: ClassVar[tuple[str, ...]] = ()
    metrics: ClassVar[tuple[Metric, ...]] = (Metric("nan/x", Ratio("x")),)

    def settings(self):
        return {}

    def open(self, worker):
        return lambda file, item: {"x": float("nan")}


def test_a_measurement_that_is_not_finite_is_a_failure(tmp_path):
    Video(np.zeros((5, 32, 32, 3), np.uint8), 8.0).save(tmp_path / "videos/x.mp4")
    (tmp_path / "videos/x.txt").write_text("a red ball moves left")
    suite = Suite("nan", (), (NotANumber(),), lambda prompt: Item("", prompt))
    results = evaluate(videos_of_folder(suite, tmp_path / "videos"), suite, tmp_path / "out")
    assert "not finite" in str(results.videos[0].errors)


def test_prompts_of_one_file_have_ids_of_their_own_and_parts_are_segments(tmp_path):
    Video(np.zeros((5, 32, 32, 3), np.uint8), 8.0).save(tmp_path / "x.mp4")
    suite = build_suite("toybox", SuiteOptions(num_prompts=1))
    table = tmp_path / "metadata.csv"
    table.write_text("file_name,text\nx.mp4,a red ball moves left\nx.mp4,a blue ball moves right\n")
    assert len({item.id for item in videos_of_folder(suite, tmp_path).items}) == 2
    table.write_text("file_name,text,start,end\nx.mp4,a red ball moves left,0,0.25\nx.mp4,a blue ball moves right,,\n")
    videos = videos_of_folder(suite, tmp_path)
    assert [dict(item.info).get("end") for item in videos.items] == [0.25, None]
    lengths = Suite("lengths", (), (Length(),), lambda prompt: Item("", prompt))
    results = evaluate(videos_of_folder(lengths, tmp_path), lengths, tmp_path / "out")
    assert [video.measurements["length"]["frames"] for video in results.videos] == [2, 5]
    with pytest.raises(UserError, match="cannot export a segment"):
        export_vbench(results, tmp_path / "out", tmp_path / "official")


@dataclass(frozen=True)
class Length:
    """Counts frames."""

    name: str = "length"
    groups: tuple[str, ...] = ()
    metrics: tuple[Metric, ...] = (Metric("length", Ratio("frames")),)

    def settings(self):
        return {}

    def open(self, worker: int):
        return lambda file, item: {"frames": len(file.video.frames)}
