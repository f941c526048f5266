"""GPT4o-MTScore: frames, parsing and averages against the published raw results, and a judge on loopback."""

import json
import statistics
from pathlib import Path

import numpy as np
import pytest

from cogvideox.cli.main import main
from cogvideox.errors import UserError
from cogvideox.evaluation.judge.describe import parse_objects
from cogvideox.evaluation.judge.frames import frame_indices, judged_frames
from cogvideox.evaluation.judge.mtscore import MeanOfRuns, MTScore
from cogvideox.evaluation.judge.parsing import parse_official, parse_score
from cogvideox.evaluation.results import EvaluationResults
from cogvideox.evaluation.run import evaluate
from cogvideox.evaluation.scorer import VideoFile
from cogvideox.evaluation.suite import SuiteOptions
from cogvideox.evaluation.suites.registry import build_suite
from cogvideox.evaluation.videos import videos_of_folder
from cogvideox.llm.cache import ResponseCache
from cogvideox.records import Video
from cogvideox.video.official_tools import encode_png
from tests.chat_server import ChatServer
from tests.goldens import GOLDENS, REASON

MTSCORE = GOLDENS / "mtscore"
published = pytest.mark.skipif(not MTSCORE.is_dir(), reason=REASON)
pytest.importorskip("cv2")


@published
def test_all_48_frames_equal_the_published_ones():
    from cogvideox.video.io import read_image

    number = 0
    for run in "123":
        extracted = MTSCORE / "results/GPT4o-MTScores_temp/video_frames_folder_temp/modelname1" / run
        for path in sorted((MTSCORE / "toy_video/test_open" / run).glob("*.mp4")):
            for index, frame in judged_frames(VideoFile(path)).items():
                assert np.array_equal(frame, read_image(extracted / f"{path.stem}_frame{index}.png"))
                number += 1
    assert number == 48


@published
def test_published_answers_give_the_published_scores_and_their_mean():
    measurements, means = [], []
    for run in (1, 2, 3):
        answers = json.loads(
            (MTSCORE / f"results/GPT4o-MTScores_temp/scores_temp/modelname1_{run}_metamorphic.json").read_text()
        )
        expected = json.loads((MTSCORE / f"results/all/modelname1_{run}_GPT4o-MTScore.json").read_text())
        scores = {name: parse_score(answer) for name, answer in answers.items()}
        assert {name: str(score) for name, score in scores.items()} == {
            name: value["Score"] for name, value in expected["Formatted Data"].items()
        }
        assert {name: parse_official(answer) for name, answer in answers.items()} == {
            name: value["Score"] for name, value in expected["Formatted Data"].items()
        }
        assert statistics.fmean(scores.values()) == expected["Average Score"]
        means.append(expected["Average Score"])
        measurements += [{"score": score, "run": run} for score in scores.values()]
    assert means == [1.0, 3.0, 3.0]
    assert round(MeanOfRuns()(measurements), 4) == 2.3333


def test_the_mean_is_over_runs_and_not_pooled():
    measurements = [{"score": 5.0, "run": 0}, *[{"score": 1.0, "run": 1}] * 3]
    assert MeanOfRuns()(measurements) == 3.0  # pooled: 2.0


@pytest.mark.parametrize(
    ("answer", "score", "official"),
    [
        ('Statement.\n"Score":{4}', 4, "4"),
        ('Statement.\n\n"Score":{4}\n', 4, ""),  # the official script keeps an empty score
        ('"Score":{4}', 4, None),  # the official script drops an answer of one line
        ("Statement.\n**Score: 3**", 3, "**Score: 3**"),
        ('Statement.\n"Score":{6}', None, "6"),
        ('Statement.\n"Score":{45}', None, "45"),
        ('"Score":{2} at first\nand then more text', None, "and then more text"),
        ("Statement.\n4", None, "4"),
        ("", None, None),
    ],
)
def test_parsing(answer, score, official):
    assert parse_score(answer) == score
    assert parse_official(answer) == official


def test_frame_indices():
    assert frame_indices(102) == [0, 14, 28, 42, 56, 70, 84, 101]
    assert frame_indices(8) == list(range(8))
    with pytest.raises(UserError, match="needs 8 frames"):
        frame_indices(7)


def test_frames_are_sent_as_png_with_their_names(tmp_path):
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 255, (6, 8, 3), np.uint8)
    data = encode_png(frame)
    assert data.startswith(b"\x89PNG")
    from cogvideox.llm.chat import Frame
    from cogvideox.llm.endpoint import _content

    (name, image) = _content(("0_frame0.png", Frame(data)), "images")
    assert name == {"type": "text", "text": "0_frame0.png"}
    assert image["image_url"]["url"].startswith("data:image/png;base64,")


def test_objects_in_answers():
    assert parse_objects("- a bird\n* Cats\n3. an apple.\n\nfire hydrant") == {"bird", "cats", "apple", "fire hydrant"}


@pytest.fixture
def server(tmp_path):
    server = ChatServer(tmp_path)
    yield server
    server.kill()


def write_inputs(folder: Path, server: ChatServer, names: list[str], budget: str = "") -> tuple[Path, Path, Path]:
    """Write a folder of videos, the table of prompts, and the settings of the judge."""
    videos, prompts, judge = folder / "videos", folder / "prompts.csv", folder / "judge.yaml"
    videos.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for name in names:
        Video(rng.integers(0, 255, (9, 16, 16, 3), np.uint8), 8.0).save(videos / f"{name}.mp4")
    prompts.write_text("videoid,name\n" + "".join(f"{name},prompt of {name}\n" for name in names), encoding="utf-8")
    judge.write_text(
        f"model: {{endpoint: {{url: '{server.url}', model: tiny, price_prompt: 10}}, "
        "retries: {attempts: 3, first_wait: 0.01, longest_wait: 0.05, patience: 0.1}}\n" + budget,
        encoding="utf-8",
    )
    return videos, prompts, judge


def test_failures_are_counted_and_retried_and_no_answer_is_paid_twice(tmp_path, server):
    names = ["score-4", "score-2", "score-3 overloaded", "nothing", "always-fails"]
    videos, prompts, judge = write_inputs(tmp_path, server, names)
    arguments = ["evaluate", str(videos), "--suite", "mtscore", "--prompts", str(prompts), "--set", f"judge={judge}"]
    arguments += ["--set", "repeats=2", "-o", str(tmp_path / "out")]
    assert main(arguments) == 0
    results = EvaluationResults.load(tmp_path / "out")
    score = results.score("judge/mtscore-variant")
    assert score is not None and score.value == 3.0
    assert score.protocol["num_videos"] == 3 and score.protocol["num_failures"] == 2
    errors = {video.prompt: video.errors for video in results.videos if video.errors}
    assert "has no score" in errors["prompt of nothing"]["mtscore-variant"]
    assert "answered 500" in errors["prompt of always-fails"]["mtscore-variant"]
    paid = server.computed()
    assert len(paid) == 8 and set(paid.values()) == {1}  # four videos, two questions each
    assert main(arguments) == 0  # failed calls are sent again; stored answers are not paid for again
    assert server.computed() == paid
    (tmp_path / "out" / "measurements.jsonl").unlink()
    assert main(arguments) == 0
    assert server.computed() == paid


def test_a_budget_stops_the_evaluation_and_a_higher_one_continues_it(tmp_path, server, capsys):
    names = [f"score-{number}" for number in range(1, 6)]
    videos, prompts, judge = write_inputs(tmp_path, server, names, "budget: {calls: 3}\n")
    arguments = ["evaluate", str(videos), "--suite", "mtscore", "--prompts", str(prompts), "--set", f"judge={judge}"]
    assert main([*arguments, "-o", str(tmp_path / "out")]) == 2
    assert "budget of 3 calls" in capsys.readouterr().err
    assert len(server.computed()) == 3 and not (tmp_path / "out" / "results.json").exists()
    write_inputs(tmp_path, server, names, "budget: {calls: 5}\n")
    assert main([*arguments, "-o", str(tmp_path / "out")]) == 0
    assert "calls of endpoints: 5, cost 0.0" in capsys.readouterr().out
    score = EvaluationResults.load(tmp_path / "out").score("judge/mtscore-variant")
    assert score is not None and score.value == 3.0
    assert len(server.computed()) == 5 and set(server.computed().values()) == {1}
    with ResponseCacheOf(tmp_path / "out") as cache:
        assert cache.spent().calls == 5 and cache.spent().cost > 0


def test_a_judge_is_asked_from_one_process(tmp_path, server):
    videos, prompts, judge = write_inputs(tmp_path, server, ["score-1"])
    suite = build_suite("mtscore", SuiteOptions(prompts=prompts, settings={"judge": str(judge)}))
    with pytest.raises(UserError, match="remove --workers"):
        evaluate(videos_of_folder(suite, videos), suite, tmp_path / "out", workers=2)


def test_an_unreachable_judge_stops_the_evaluation(tmp_path, server):
    videos, prompts, judge = write_inputs(tmp_path, server, ["score-1", "score-2"])
    server.kill()
    suite = build_suite("mtscore", SuiteOptions(prompts=prompts, settings={"judge": str(judge)}))
    with pytest.raises(UserError, match="start the server"):
        evaluate(videos_of_folder(suite, videos), suite, tmp_path / "out")


def test_a_limit_on_the_cost_needs_prices(tmp_path, server):
    _, _, judge = write_inputs(tmp_path, server, ["score-1"], "budget: {cost: 1.0}\n")
    assert MTScore(judge).name
    judge.write_text(judge.read_text().replace("price_prompt: 10", "price_prompt: 0"), encoding="utf-8")
    with pytest.raises(UserError, match="needs prices"):
        MTScore(judge).settings()


def test_only_the_judge_of_published_scores_has_their_name(tmp_path, server):
    _, _, judge = write_inputs(tmp_path, server, ["score-1"])
    assert MTScore(judge).name == "mtscore-variant"
    judge.write_text(judge.read_text().replace("model: tiny", "model: gpt-4o-2024-05-13"), encoding="utf-8")
    assert MTScore(judge).name == "gpt4o_mtscore"


class ResponseCacheOf:
    """Opens and closes the responses of an evaluation."""

    def __init__(self, folder: Path) -> None:
        self.cache = ResponseCache(folder / "responses.sqlite")

    def __enter__(self) -> ResponseCache:
        return self.cache

    def __exit__(self, *_) -> None:
        self.cache.close()
