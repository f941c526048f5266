"""The report has every number with its protocol, and the videos inside the page."""

import base64
import csv
import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from cogvideox.errors import UserError
from cogvideox.evaluation.compare import compare, format_comparison
from cogvideox.evaluation.export import export_vbench, official_names
from cogvideox.evaluation.protocol import Protocol
from cogvideox.evaluation.report.page import write_report
from cogvideox.evaluation.results import EvaluationResults, summarize
from cogvideox.evaluation.scorer import Item, Metric, Ratio
from cogvideox.evaluation.suite import PublishedRow, Suite
from cogvideox.evaluation.videos import VideoSet
from cogvideox.records import Video
from cogvideox.toybox.render.renderer import render_scene
from cogvideox.toybox.scenes.sampler import sample_scene

NUM = 6


class Constant:
    """A scorer whose measurements the test supplies."""

    name = "v"
    groups = ()
    metrics = (
        Metric("v/scene", Ratio("hits", "frames"), "frames with the scene", "%", per_video="rate"),
        Metric("v/motion", Ratio("motion"), "<motion>", "%", per_video="motion"),
        Metric("v/style", Ratio("style"), "", "%", per_video="style"),
    )

    def settings(self):
        return {"version": 1}

    def open(self, worker):
        raise NotImplementedError


def evaluation(folder: Path, shift: float = 0.0, **protocol) -> tuple[EvaluationResults, Suite]:
    """Six videos in two groups; the last one has failed."""
    items = tuple(
        Item(str(i), f"a <b>scene {i // 2}", "AB"[i % 2], sample=i % 2, seed=i, info={"auxiliary_info": {"n": i}})
        for i in range(NUM)
    )
    published = (PublishedRow("CogVideoX-5B", {"v/scene": 0.5544, "v/motion": 0.6222}),)
    suite = Suite("v", items, (Constant(),), lambda prompt: None, published=published, source="Table 3 of the paper")
    paths = {}
    for item in items:
        paths[item.id] = folder / "videos" / f"{item.id}.mp4"
        Video(render_scene(sample_scene(item.seed), num_frames=5, height=32, width=32, fps=8.0).numpy(), 8.0).save(
            paths[item.id]
        )
    values = {
        item.id: {"hits": i, "frames": 8, "rate": i / 8, "motion": i % 2, "style": 0.2 + 0.1 * i + shift}
        for i, item in enumerate(items[:-1])
    }
    videos = VideoSet(items, paths, Protocol(suite="v 1234", code="0", **protocol), folder=folder)
    results = summarize(suite, videos, {"v": values}, {"v": {items[-1].id: "it is <damaged>"}})
    results.save(folder)
    return results, suite


def test_the_page_is_self_contained(tmp_path: Path):
    results, suite = evaluation(tmp_path)
    page = write_report(tmp_path, results, suite).read_text()
    assert not re.search(r"(src|href)=['\"]?http", page) and "<b>scene" not in page and "it is &lt;damaged&gt;" in page
    (sources,) = re.findall(r"const VIDEOS = (\{.*?\});", page)
    videos = json.loads(sources)
    shown = set(re.findall(r"data-id='(\w+)'", page))
    assert shown and shown == set(videos)
    for id, (video, poster) in videos.items():
        assert base64.b64decode(video.partition(",")[2]) == (tmp_path / f"videos/{id}.mp4").read_bytes()
        assert base64.b64decode(poster.partition(",")[2])[:2] == b"\xff\xd8"
    assert "55.4 %" in page and "Table 3 of the paper" in page and "<polygon" in page


def test_every_table_names_number_of_videos_and_protocol(tmp_path: Path):
    results, suite = evaluation(tmp_path, sampler="ddim", num_inference_steps=8)
    page = write_report(tmp_path, results, suite).read_text()
    # hits 0+1+2+3+4 of 5 x 8 frames
    assert "25.0 % [" in page and "N=5" in page
    text = (tmp_path / "report.md").read_text()
    assert "| v/scene | 25.0 % [" in text and "- sampler: ddim" in text and "- num_inference_steps: 8" in text
    rows = list(csv.DictReader((tmp_path / "scores.csv").read_text().splitlines()))
    assert len(rows) == 9 and float(rows[0]["value"]) == 0.25
    assert all(row["num_failures"] in ("0", "1") and row["sampler"] == "ddim" and row["code"] for row in rows)
    bare = replace(results, scores=(replace(results.scores[0], protocol={}),))
    with pytest.raises((ValueError, KeyError)):
        write_report(tmp_path, bare, suite)


def test_results_are_read_back(tmp_path: Path):
    results, _ = evaluation(tmp_path)
    assert EvaluationResults.load(tmp_path) == results
    with pytest.raises(UserError, match="run `cogvideox evaluate` with -o"):
        EvaluationResults.load(tmp_path / "videos")


def test_a_comparison_names_differing_settings(tmp_path: Path):
    a, suite = evaluation(tmp_path / "a", shift=0.25, num_inference_steps=25)
    b, _ = evaluation(tmp_path / "b", num_inference_steps=8)
    result = compare(a, b, suite)
    assert result.num_pairs == NUM and result.differing == {"num_inference_steps": (25, 8)}
    style = next(row for row in result.comparisons if row.metric.name == "v/style" and not row.group)
    assert style.difference.value == pytest.approx(0.25)
    assert style.difference.interval == pytest.approx((0.25, 0.25))
    text = format_comparison(result)
    assert "num_inference_steps: A 25, B 8" in text and "| v/style | 65.0 % | 40.0 % | +25.0 % |" in text
    other = replace(b, suite="w")
    with pytest.raises(UserError, match="suites differ"):
        compare(a, other, suite)


def test_export_has_official_names(tmp_path: Path):
    results, _ = evaluation(tmp_path / "a")
    assert export_vbench(results, tmp_path / "a", tmp_path / "out") == NUM
    names = sorted(file.name for file in (tmp_path / "out/videos").iterdir())
    assert names == sorted(f"a <b>scene {i // 2}-{i % 2}.mp4" for i in range(NUM))
    info = json.loads((tmp_path / "out/VBench_full_info.json").read_text())
    assert info[0] == {
        "prompt_en": "a <b>scene 0",
        "dimension": ["A", "B"],
        "auxiliary_info": {"A": {"n": 0}, "B": {"n": 1}},
    }
    scores = json.loads((tmp_path / "out/results/cogvideox_eval_results.json").read_text())
    assert scores["scene"][0] == 0.25 and scores["scene"][1][1]["video_results"] == 0.125
    assert scores["protocol"]["suite"] == "v 1234"


@pytest.mark.parametrize("prompt", ["../escape", "a/b", "..", "x" * 300])
def test_prompts_that_are_no_file_names_are_not_exported(tmp_path: Path, prompt: str):
    results, _ = evaluation(tmp_path)
    videos = (replace(results.videos[0], prompt=prompt), *results.videos[1:])
    with pytest.raises(UserError, match="file name"):
        official_names(replace(results, videos=videos))


def test_scores_of_folders_without_sidecars_say_unknown(tmp_path: Path):
    results, _ = evaluation(tmp_path)
    assert asdict(Protocol(suite="v"))["weights"] == "unknown" == results.scores[0].protocol["weights"]
