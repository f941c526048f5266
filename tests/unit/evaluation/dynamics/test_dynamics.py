"""DEVIL: bins, range and controllability by hand, measurements of constructed clips, regressions, and the suite."""

import json
from pathlib import Path

import numpy as np
import pytest

from cogvideox.cli.main import main
from cogvideox.errors import UserError
from cogvideox.evaluation.dynamics import features
from cogvideox.evaluation.dynamics.aggregate import (
    GRADES,
    binned_quality,
    controllability,
    dynamics_range,
    grade_of_name,
)
from cogvideox.evaluation.dynamics.regression import OFFICIAL_INPUTS, DynamicsRegression, Level, fit
from cogvideox.evaluation.dynamics.scorer import Dynamics, QualityStatistic
from cogvideox.evaluation.judge.naturalness import parse_level
from cogvideox.evaluation.results import EvaluationResults
from cogvideox.evaluation.suite import SuiteOptions
from cogvideox.evaluation.suites.registry import build_suite
from cogvideox.records import Video
from cogvideox.video.entropy import temporal_entropy, x264_build


def test_a_bin_without_videos_is_zero_and_thirds_have_four_bins():
    dynamics = [0.01, 0.02, 0.30, 0.55, 0.95]  # bins 1, 1, 4, 7, 12
    quality = [1.0, 0.5, 0.6, 0.8, 0.9]
    result = binned_quality(dynamics, quality)
    assert result.overall == pytest.approx((0.75 + 0.6 + 0.8 + 0.9) / 12)
    assert result.low == pytest.approx((0.75 + 0.6) / 4)
    assert result.mid == pytest.approx(0.8 / 4)
    assert result.high == pytest.approx(0.9 / 4)
    assert result.num_filled == 4
    still = binned_quality([0.0] * 9, [1.0] * 9)  # a model that never moves
    assert still.overall == pytest.approx(1 / 12)


def test_edges_of_bins_belong_to_the_upper_one_and_1_is_dropped_by_the_official_script():
    assert binned_quality([1 / 12], [1.0]).low == pytest.approx(1 / 4)
    assert binned_quality([1.0], [0.6]).high == pytest.approx(0.6 / 4)
    official = binned_quality([1.0], [0.6], official_bugs=True)
    assert official.overall == 0 and official.num_filled == 0


def test_range_and_controllability():
    assert dynamics_range(np.linspace(0, 1, 101).tolist()) == pytest.approx(0.98)
    assert controllability([0, 1, 2], [0.1, 0.2, 0.3]) == 1.0
    assert controllability([0, 1, 2], [0.3, 0.2, 0.1]) == 0.0
    # Grades 0 0 1 1, scores .1 .3 .2 .4: right against both, one, one and both of the two others.
    assert controllability([0, 0, 1, 1], [0.1, 0.3, 0.2, 0.4]) == pytest.approx((1 + 0.5 + 0.5 + 1) / 4)


def test_grades_in_names():
    assert [grade_of_name(f"{grade}_7") for grade in GRADES] == [0, 1, 2, 3, 4]
    assert grade_of_name("flower_1") is None
    assert grade_of_name("flower_1", official_bugs=True) == 1  # "low" is in "flower"
    assert grade_of_name("very_high_slow_motion", official_bugs=True) == 1
    assert grade_of_name("very_high_slow_motion") == 4


def test_the_score_is_the_mean_of_clipped_predictions():
    levels = {
        "inter_frame": Level(("flow",), (0.1,), 0.0),
        "inter_segment": Level(("phash",), (1.0,), -0.5),
        "video": Level(("info_dino",), (1.0,), 0.0),
    }
    regression = DynamicsRegression(levels)
    assert regression.score({"flow": 5.0, "phash": 0.1, "info_dino": 7.0}) == pytest.approx((0.5 + 0.0 + 1.0) / 3)
    assert not regression.is_complete


def test_a_fit_recovers_the_coefficients_and_survives_its_file(tmp_path):
    rng = np.random.default_rng(0)
    names = sorted({name for inputs in OFFICIAL_INPUTS.values() for name in inputs})
    rows = [dict(zip(names, rng.uniform(0, 1, len(names)))) for _ in range(30)]
    truth = {
        "inter_frame": Level(("flow", "ssim", "phash"), (0.3, -0.2, 0.1), 0.4),
        "inter_segment": Level(("dino_segm_dist", "viclip_segm_dist"), (0.5, 0.2), 0.1),
        "video": Level(("info_dino", "temporal_entropy"), (0.4, 0.1), 0.2),
    }
    ratings = {name: [level.predict(row) for row in rows] for name, level in truth.items()}
    fitted = fit(rows, ratings)
    assert fitted.is_complete
    for name, level in truth.items():
        assert fitted.levels[name].coefficients == pytest.approx(level.coefficients)
        assert fitted.levels[name].intercept == pytest.approx(level.intercept)
    fitted.save(tmp_path / "regression.json")
    assert DynamicsRegression.load(tmp_path / "regression.json") == fitted
    (tmp_path / "pickle.json").write_bytes(b"\x80\x04")
    with pytest.raises(UserError):
        DynamicsRegression.load(tmp_path / "pickle.json")
    with pytest.raises(UserError, match="too few"):
        fit(rows[:3], {"inter_frame": ratings["inter_frame"][:3]})


def test_frames_are_sampled_or_repeated_to_8_fps():
    frames = np.arange(30, dtype=np.uint8)[:, None, None, None].repeat(3, -1)
    assert features.at_target_rate(frames, 30.0)[:, 0, 0, 0].tolist() == list(range(0, 30, 3))  # 3.75 is rounded down
    assert len(features.at_target_rate(frames, 8.0)) == 30
    assert features.at_target_rate(frames[:2], 3.0)[:, 0, 0, 0].tolist() == [0, 0, 1, 1]  # 2.67 is rounded down


def test_segments_of_49_frames():
    chosen = features.segments(49)
    assert len(chosen) == 5 and all(len(indices) == 8 for indices in chosen)
    assert chosen[0] == [0, 1, 3, 4, 6, 7, 9, 11]
    assert chosen[4] == [48] * 8
    assert features.segments(10)[0] == [0, 1, 1, 1, 1, 1, 1, 1]


def test_distances_of_embeddings():
    x, y = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    same, alternating = np.stack([x] * 8), np.stack([x, y] * 4)
    assert features.embedding_variance(same) == pytest.approx(0)
    assert features.embedding_variance(alternating) == pytest.approx(1 - 0.5**0.5)
    assert features.autocorrelation_distance(same) == pytest.approx(0)
    assert features.autocorrelation_distance(alternating) == pytest.approx(4 / 7)  # the odd lags of 1..7
    assert features.segment_distance(np.stack([x, x])) == pytest.approx(0)
    assert features.segment_distance(np.stack([x, y])) == pytest.approx(1 - 2 / 3)  # the diagonal counts
    assert features.consistency(same) == pytest.approx(1)
    assert features.consistency(alternating) == pytest.approx((0 + 0.5 * 1) * 3 / 7)  # equal to the first: 3 of 7
    with pytest.raises(UserError, match="two frames"):
        features.consistency(same[:1])


def test_the_perceptual_hash_equals_a_transform_by_scipy():
    fft = pytest.importorskip("scipy.fftpack")
    from PIL import Image

    frame = np.random.default_rng(0).integers(0, 255, (70, 90, 3), np.uint8)
    gray = np.asarray(Image.fromarray(frame).convert("L").resize((32, 32), Image.Resampling.LANCZOS), dtype=float)
    low = fft.dct(fft.dct(gray, axis=0), axis=1)[:8, :8]
    assert np.array_equal(features.perceptual_hash(frame), low > np.median(low))


def clip(step: int, length: int = 17) -> np.ndarray:
    """A texture that moves to the left by `step` pixels per frame."""
    rng = np.random.default_rng(1)
    wide = rng.integers(0, 255, (8, 40, 3), np.uint8).repeat(16, 0).repeat(16, 1)
    return np.stack([wide[:, step * k : step * k + 160] for k in range(length)])


def test_measurements_grow_with_motion():
    pytest.importorskip("cv2")
    from cogvideox.evaluation.models.loaders import dis_flow

    still, slow, fast = (clip(step) for step in (0, 2, 8))
    entropies = [temporal_entropy(frames, 8.0) for frames in (still, slow, fast)]
    assert entropies[0].value < entropies[1].value < entropies[2].value
    assert all(entropy.keyframes == entropy.first for entropy in entropies)  # one key frame, the first
    speeds = [features.mean_speed(frames, dis_flow()) for frames in (still, slow, fast)]
    assert speeds == pytest.approx([0, 2, 8], abs=0.8)
    similarities = [features.neighbor_similarity(frames) for frames in (still, slow, fast)]
    assert similarities[0] == pytest.approx(1) and similarities[0] > similarities[1] > similarities[2]
    assert features.hash_distance(still) == 0 < features.hash_distance(fast)
    assert x264_build().startswith("x264 - core")
    assert temporal_entropy(fast, 8.0) == entropies[2]  # deterministic


def test_a_cut_adds_a_key_frame():
    other = np.full((8, 128, 160, 3), 40, np.uint8)
    other[:, 30:90, 40:100] = 220
    entropy = temporal_entropy(np.concatenate([clip(0, 8), other]), 8.0)
    assert entropy.single_keyframes > entropy.keyframes > entropy.first


@pytest.mark.parametrize(
    ("answer", "score"),
    [("Almost Realistic", 1.0), ("**Clearly Unrealistic**.", 0.25), ("slightly or clearly", None), ("natural", None)],
)
def test_levels_of_naturalness(answer, score):
    assert parse_level(answer) == score


def test_the_statistic_skips_incomplete_videos():
    regression = DynamicsRegression({"video": Level(("flow",), (1.0,), 0.0)})
    statistic = QualityStatistic(regression, ("naturalness",))
    assert statistic([{"flow": 0.5, "naturalness": 1.0}, {"flow": 0.9}]) == pytest.approx(1 / 12)
    assert np.isnan(statistic([]))


def test_a_folder_named_by_grades_with_values_of_other_tools(tmp_path):
    pytest.importorskip("cv2")
    folder = tmp_path / "videos"
    folder.mkdir()
    for name, step in (("static_1", 0), ("low_1", 2), ("very_high_1", 8)):
        Video(clip(step), 8.0).save(folder / f"{name}.mp4")
    levels = {"inter_frame": Level(("flow",), (0.03,), 0.0), "video": Level(("viclip",), (1.0,), 0.0)}
    DynamicsRegression(levels).save(tmp_path / "regression.json")
    (tmp_path / "values.csv").write_text(
        "video_name,viclip,motion_smoothness\nstatic_1.mp4,0,0.9\nlow_1.mp4,0.2,0.8\nvery_high_1.mp4,0.9,0.7\n",
        encoding="utf-8",
    )
    arguments = ["evaluate", str(folder), "--suite", "devil", "-o", str(tmp_path / "out"), "--set", "flow=dis"]
    arguments += ["--set", f"regression={tmp_path / 'regression.json'}", "--set", f"values={tmp_path / 'values.csv'}"]
    assert main(arguments) == 0
    results = EvaluationResults.load(tmp_path / "out")
    scores = {score.metric: score for score in results.scores}
    assert scores["devil-variant/controllability"].value == 1.0
    # Frames are enlarged to 512 pixels, so speeds are 0, 6.4 and 25.6: scores 0, (0.19 + 0.2) / 2, (0.77 + 0.9) / 2.
    assert scores["devil-variant/num_filled"].value == 3
    quality = scores["devil-variant/dynamic_quality"]
    assert quality.value == pytest.approx((0.9 + 0.8 + 0.7) / 12)
    assert quality.protocol["qualities"] == "motion_smoothness" and "x264" in quality.protocol["scorer"]
    assert "57.7 %" in (tmp_path / "out/report.md").read_text(encoding="utf-8")


def test_prompts_of_grades_and_errors(tmp_path):
    for grade in GRADES:
        (tmp_path / "prompts" / grade).mkdir(parents=True)
        (tmp_path / "prompts" / grade / "a.txt").write_text(f"a {grade} scene\nanother {grade} scene\n")
    DynamicsRegression({"video": Level(("temporal_entropy",), (1.0,), 0.0)}).save(tmp_path / "regression.json")
    settings = {"regression": str(tmp_path / "regression.json")}
    suite = build_suite("devil", SuiteOptions(prompts=tmp_path / "prompts", num_prompts=1, settings=settings))
    assert [item.info["grade"] for item in suite.items] == [0, 1, 2, 3, 4]
    with pytest.raises(UserError, match="needs --set regression"):
        build_suite("devil", SuiteOptions(prompts=tmp_path / "prompts"))
    with pytest.raises(UserError, match="applies to RAFT only, not to flow=dis"):
        build_suite("devil", SuiteOptions(settings=settings | {"flow": "dis", "official_bugs": "yes"}))
    with pytest.raises(UserError, match="no text files"):
        build_suite("devil", SuiteOptions(prompts=tmp_path, settings=settings))
    (tmp_path / "regression.json").write_text(json.dumps({"levels": {"video": {"inputs": [], "coefficients": []}}}))
    with pytest.raises(UserError):
        build_suite("devil", SuiteOptions(settings=settings))
    assert Dynamics(Path("x.json")).qualities == ()
