"""VBench's rules with oracle models and constructed clips, against answers computed by hand."""

from pathlib import Path

import numpy as np
import pytest

from cogvideox.errors import UserError
from cogvideox.evaluation.plugins import Plugin
from cogvideox.evaluation.scorer import Item, VideoFile
from cogvideox.evaluation.vbench import rules
from cogvideox.evaluation.vbench.pieces import middle_frames, split
from cogvideox.evaluation.vbench.scorer import VBenchDimension
from cogvideox.records import Video


def numbered_clip(num_frames: int, height: int = 32, width: int = 48) -> np.ndarray:
    """A clip whose frame k has the color k."""
    return np.broadcast_to(np.arange(num_frames, dtype=np.uint8)[:, None, None, None], (num_frames, height, width, 3))


def numbers(frames: np.ndarray) -> list[int]:
    return frames[:, 0, 0, 0].tolist()


def test_middle_frames():
    assert middle_frames(32) == list(range(0, 32, 2))  # intervals of two frames: (0 + 1) // 2 = 0
    assert middle_frames(49)[:4] == [1, 4, 7, 10]  # edges 0, 3, 6, 9, 12: 3.06 is rounded down
    assert middle_frames(49)[-1] == 46  # the last interval is 45..48
    assert middle_frames(3) == [0, 1, 2] + [2] * 13


def test_human_action_needs_a_probability_of_085_among_the_five_best():
    frames = numbered_clip(20)
    table = {"a": 0.99, "b": 0.98, "c": 0.97, "d": 0.96, "e": 0.84996, "f": 0.80}
    for action, hit in (("a", 1), ("e", 1), ("f", 0)):  # 0.84996 is rounded to 0.85
        assert rules.human_action(frames, action, lambda _, __: table)["score"] == hit
    table["f"] = 0.849961  # the sixth best
    table["e"] = 0.849962
    assert rules.human_action(frames, "f", lambda _, __: table)["score"] == 0
    table["e"] = 0.84994
    assert rules.human_action(frames, "e", lambda _, __: table)["score"] == 0
    with pytest.raises(UserError, match="is not one of the 6 that the classifier knows"):
        rules.human_action(frames, "flying", lambda _, __: table)
    assert rules.human_action(frames, "flying", lambda _, __: table, official_bugs=True)["score"] == 0
    seen = []
    rules.human_action(frames, "a", lambda chosen, _: seen.extend(numbers(chosen)) or table)
    assert seen == middle_frames(20)


def test_actions_in_prompts_and_file_names():
    assert rules.action_of_prompt("A person is riding a bike") == "riding a bike"
    assert rules.action_of_prompt("a bird") is None
    assert rules.action_of_file("A person is riding a bike-0.mp4") == "riding a bike"
    assert rules.action_of_file("A person is riding a bike-0_003.mp4") == "riding a bike"
    assert rules.action_of_file("0001.mp4") == "0001.mp4"  # which no classifier knows: silently 0


def test_scene_counts_frames_whose_caption_has_all_words_as_substrings():
    captions = ["an art gallery"] * 4 + ["a party in a gallery"] * 3 + ["a gallery"] * 9
    values = rules.scene(numbered_clip(16), "art gallery", lambda frames: captions)
    assert (values["hits"], values["frames"]) == (7, 16)  # "party" has "art"
    assert values["score"] == 7 / 16


def test_multiple_objects_counts_frames_with_both():
    detected = [{"bird", "cat"}] * 5 + [{"bird"}] * 4 + [{"cat", "birdhouse"}] * 3 + [set()] * 4
    values = rules.multiple_objects(numbered_clip(16), "bird and cat", lambda frames: detected)
    assert (values["hits"], values["frames"], values["score"]) == (5, 16, 5 / 16)


@pytest.mark.parametrize(("size", "expected"), [((768, 800), (768, 800)), ((800, 1000), (720, 900))])
def test_large_frames_are_reduced_before_detection(size, expected):
    seen = []
    rules.multiple_objects(numbered_clip(1, *size), "a and b", lambda frames: seen.append(frames.shape) or [set()] * 16)
    assert seen == [(16, *expected, 3)]


def test_appearance_style_uses_all_frames():
    frames = numbered_clip(21)
    values = rules.appearance_style(frames, "x", lambda frames, _: frames[:, 0, 0, 0] / 100)
    assert values["frames"] == 21
    assert values["similarity"] == pytest.approx(2.1)  # 0 + 0.01 + ... + 0.20
    assert values["score"] == pytest.approx(0.1)
    assert values["last_frame"] == pytest.approx(0.2)


def flow_of(speeds: list[float], height: int, width: int):
    """An estimator with the given speed in exactly 5 % of the pixels of each pair; the other pixels stand still."""

    def estimate(frames):
        assert len(frames) == len(speeds) + 1
        for speed in speeds:
            flow = np.zeros((height, width, 2), np.float32)
            flow.reshape(-1, 2)[: height * width // 20] = (0.6 * speed, -0.8 * speed)
            yield flow

    return estimate


@pytest.mark.parametrize(("moving", "dynamic"), [(11, 0), (12, 1)])
def test_49_frames_of_480p_need_12_pairs_above_1125_pixels(moving, dynamic):
    speeds = [11.26] * moving + [11.25] * (48 - moving)  # exactly the threshold is not enough
    frames = numbered_clip(49, 480, 720)
    values = rules.dynamic_degree(frames, 8.0, flow_of(speeds, 480, 720))
    assert values["score"] == dynamic
    assert (values["required_pairs"], values["moving_pairs"]) == (12, moving)


@pytest.mark.parametrize(("fps", "step"), [(8.0, 1), (11.9, 1), (12.0, 2), (20.0, 2), (30.0, 4), (4.0, 1)])
def test_frames_are_sampled_at_about_8_fps(fps, step):
    seen = []
    frames = numbered_clip(33)
    rules.dynamic_degree(frames, fps, lambda frames: seen.extend(numbers(frames)) or [])
    assert seen == list(range(0, 33, step))  # 12 / 8 = 1.5 and 20 / 8 = 2.5 are rounded to even


def test_two_frames_are_always_dynamic_in_the_official_tool():
    still = flow_of([0.0], 32, 48)
    assert rules.dynamic_degree(numbered_clip(2), 8.0, still)["score"] == 0
    assert rules.dynamic_degree(numbered_clip(2), 8.0, still, official_bugs=True)["score"] == 1
    assert rules.dynamic_degree(numbered_clip(1), 8.0, lambda frames: [], official_bugs=True)["score"] == 0
    with pytest.raises(UserError, match="two frames"):
        rules.dynamic_degree(numbered_clip(1), 8.0, lambda frames: [])


def test_pieces_of_vbench_long():
    pieces = split(49, 8.0, 2)
    assert [(piece.start, piece.stop) for piece in pieces] == [(0, 16), (16, 32), (32, 48), (33, 49)]
    assert split(48, 8.0, 2) == [range(16), range(16, 32), range(32, 48)]
    assert split(49, 8.0, 10) == [range(49)]  # human action: shorter than ten seconds
    assert split(85, 8.9, 10) == [range(80), range(5, 85)]  # the frame rate is rounded down
    assert split(10, 0.5, 2) == [range(10)]


class OracleScene(Plugin):
    """A captioner that sees the scene in frames of color 16 and above."""

    def open(self, responses=None):
        return lambda frames: ["a red barn" if frame[0, 0, 0] >= 16 else "a street" for frame in frames]

    def settings(self):
        return {"model": "oracle"}


class OracleStyle(OracleScene):
    def open(self, responses=None):
        return lambda frames, style: frames[:, 0, 0, 0].astype(float) / 100


class Loaded(VideoFile):
    """A video in memory."""

    def __init__(self, frames: np.ndarray, name: str = "0.mp4") -> None:
        super().__init__(Path(name))
        self.__dict__["video"] = Video(frames, 8.0)


def measure(scorer: VBenchDimension, frames: list[np.ndarray], info: dict) -> float:
    run = scorer.open(0)
    (metric,) = scorer.metrics
    return metric.statistic([run(Loaded(clip), Item("0", "x", info={"auxiliary_info": info})) for clip in frames])


def test_the_plain_protocol_pools_frames_and_the_long_one_averages_pieces_then_videos():
    clips, info = [numbered_clip(49), numbered_clip(16)], {"scene": {"scene": "barn"}}
    # 16 frames of 49 are 1, 4, 7, 10, 13, 16, ...: 5 of them are below 16; the short clip has no hit.
    plain = measure(VBenchDimension("scene", OracleScene("scene", "efficientnet")), clips, info)
    assert plain == 11 / 32
    # Pieces 0-15, 16-31, 32-47, 33-48 of the first clip score 0, 1, 1, 1; the second clip scores 0.
    long = measure(VBenchDimension("scene", OracleScene("scene", "efficientnet"), long=True), clips, info)
    assert long == (3 / 4 + 0) / 2


def test_style_is_pooled_over_frames_except_for_the_bug_of_several_gpus():
    clips, info = [numbered_clip(21), numbered_clip(3)], {"appearance_style": {"appearance_style": "oil"}}
    style = OracleStyle("style", "clip")
    # Sums 2.10 and 0.03 over 21 + 3 frames; last frames 0.20 and 0.02; means 0.10 and 0.01.
    assert measure(VBenchDimension("appearance_style", style), clips, info) == pytest.approx(2.13 / 24)
    bugs = VBenchDimension("appearance_style", style, official_bugs=True)
    assert measure(bugs, clips, info) == pytest.approx(0.11)
    assert "official bugs" in bugs.settings()["protocol"]
    long = VBenchDimension("appearance_style", style, long=True)
    # Pieces of the first clip: frames 0-15 and 5-20, with means 0.075 and 0.125.
    assert measure(long, clips, info) == pytest.approx((0.1 + 0.01) / 2)


def test_variants_are_named():
    assert VBenchDimension("scene", Plugin("scene", "efficientnet")).name == "vbench-efficientnet/scene"
    scorer = VBenchDimension("dynamic_degree", Plugin("flow", "dis"))
    assert scorer.metrics[0].name == "vbench-dis/dynamic_degree" and "not comparable" in scorer.metrics[0].meaning
    assert VBenchDimension("dynamic_degree", Plugin("flow", "raft")).metrics[0].name == "vbench/dynamic_degree"


def test_dis_flow_sees_a_moving_clip_and_a_still_one():
    rng = np.random.default_rng(0)
    wide = rng.integers(0, 255, (8, 24), np.uint8).repeat(16, 0).repeat(16, 1)[..., None].repeat(3, -1)
    moving = np.stack([wide[:, 8 * k : 8 * k + 192] for k in range(17)])  # 8 pixels per frame; the threshold is 3
    scorer = VBenchDimension("dynamic_degree", Plugin("flow", "dis"))
    run = scorer.open(0)
    item = Item("0", "x")
    assert run(Loaded(moving), item)["score"] == 1
    assert run(Loaded(moving[:1].repeat(17, 0)), item)["score"] == 0
