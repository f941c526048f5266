"""The suite of VBench: prompts, models, folders in the official layout, and the published list of prompts."""

import json
from pathlib import Path

import numpy as np
import pytest

from cogvideox.cli.main import main
from cogvideox.errors import UserError
from cogvideox.evaluation.results import EvaluationResults
from cogvideox.evaluation.suite import SuiteOptions
from cogvideox.evaluation.suites.registry import build_suite
from cogvideox.records import Video
from tests.goldens import GOLDENS, REASON

ENTRIES = [
    {"prompt_en": "alley", "dimension": ["scene"], "auxiliary_info": {"scene": {"scene": {"scene": "alley"}}}},
    {"prompt_en": "a car turning", "dimension": ["dynamic_degree", "motion_smoothness"]},
    {"prompt_en": "a dog running", "dimension": ["dynamic_degree"]},
    {
        "prompt_en": "a hill, oil painting",
        "dimension": ["appearance_style"],
        "auxiliary_info": {"appearance_style": {"appearance_style": "oil painting"}},
    },
]
PUBLISHED = GOLDENS / "vbench" / "VBench_full_info.json"


@pytest.fixture
def prompts(tmp_path) -> Path:
    (tmp_path / "info.json").write_text(json.dumps(ENTRIES), encoding="utf-8")
    return tmp_path / "info.json"


def build(prompts: Path, **settings: str):
    return build_suite("vbench", SuiteOptions(prompts=prompts, settings=settings))


def test_dimensions_with_a_model_are_scored(prompts, tmp_path):
    suite = build(prompts, flow="dis")
    assert [scorer.name for scorer in suite.scorers] == ["vbench-dis/dynamic_degree"]
    assert [item.prompt for item in suite.items] == ["a car turning"] * 5 + ["a dog running"] * 5
    assert "Not comparable" in suite.source and "vbench-dis/dynamic_degree" in suite.source
    assert {row.model for row in suite.published} >= {"CogVideoX-2B", "CogVideoX-5B"}
    values = {row.model: row.values for row in suite.published}
    assert values["CogVideoX-5B"] == {"vbench-dis/dynamic_degree": pytest.approx(0.6222)}
    rewritten = tmp_path / "longer.txt"
    rewritten.write_text("\n".join(f"{entry['prompt_en']}, in detail" for entry in ENTRIES), encoding="utf-8")
    suite = build(prompts, flow="dis", rewritten=str(rewritten))
    assert suite.items[0].generation_prompt == "a car turning, in detail" and suite.items[0].prompt == "a car turning"
    assert suite.prompt_variant.startswith("longer.txt ")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "needs a model for at least one dimension"),
        ({"flow": "flownet"}, "unknown model 'flownet'"),
        ({"flow": "raft"}, "raft has 1 files"),
        ({"flow": "raft:missing.pth"}, "does not exist"),
        ({"flow": "dis", "dimensions": "scene"}, "the dimension scene needs a model"),
        ({"flow": "dis", "dimensions": "color"}, "choose from human_action"),
        ({"flow": "dis", "protocol": "medium"}, "choose from short, long"),
        ({"flow": "dis", "speed": "1"}, "has no setting speed"),
    ],
)
def test_errors(prompts, settings, message):
    with pytest.raises(UserError, match=message):
        build(prompts, **settings)


def test_prompts_are_needed_and_checked(tmp_path):
    with pytest.raises(UserError, match="needs --prompts"):
        build_suite("vbench", SuiteOptions(settings={"flow": "dis"}))
    (tmp_path / "x.json").write_text('[{"prompt": "x"}]', encoding="utf-8")
    with pytest.raises(UserError, match="is not VBench_full_info"):
        build(tmp_path / "x.json", flow="dis")


def test_a_folder_in_the_official_layout(prompts, tmp_path, capsys):
    folder = tmp_path / "videos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    wide = rng.integers(0, 255, (8, 24), np.uint8).repeat(16, 0).repeat(16, 1)[..., None].repeat(3, -1)
    moving = np.stack([wide[:, 8 * k : 8 * k + 192] for k in range(17)])
    for prompt in ("a car turning", "a dog running"):
        for index in range(2):
            frames = moving if index == 0 or prompt == "a car turning" else moving[:1].repeat(17, 0)
            Video(np.ascontiguousarray(frames), 8.0).save(folder / f"{prompt}-{index}.mp4")
    arguments = ["evaluate", str(folder), "--suite", "vbench", "--prompts", str(prompts), "--set", "flow=dis"]
    assert main([*arguments, "-o", str(tmp_path / "out")]) == 0
    results = EvaluationResults.load(tmp_path / "out")
    score = results.score("vbench-dis/dynamic_degree")
    assert score is not None and score.value == 0.75 and score.protocol["num_videos"] == 4
    report = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "CogVideoX-5B" in report and "62.2 %" in report and "Not comparable" in report
    assert main([*arguments, "--seed", "7", "-o", str(tmp_path / "other")]) == 2
    assert "--seed only applies to models" in capsys.readouterr().err


@pytest.mark.skipif(not PUBLISHED.is_file(), reason=REASON)
def test_the_published_prompts():
    entries = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    from cogvideox.curation.signals.models.objects import KINDS
    from cogvideox.evaluation.vbench import rules
    from cogvideox.evaluation.vbench.scorer import ROLES

    counts = {name: sum(name in entry["dimension"] for entry in entries) for name in ROLES}
    assert counts == {
        "human_action": 100, "scene": 86, "multiple_objects": 82, "dynamic_degree": 72, "appearance_style": 90
    }  # fmt: skip
    nouns = set()
    for entry in entries:
        if "multiple_objects" in entry["dimension"]:
            pair = rules.auxiliary({"auxiliary_info": entry["auxiliary_info"]["multiple_objects"]})
            nouns |= set(pair.split(" and "))
        if "human_action" in entry["dimension"]:
            prompt = entry["prompt_en"]
            assert rules.action_of_prompt(prompt) == rules.action_of_file(f"{prompt}-0.mp4")
    assert len(nouns) == 76 and nouns <= set(KINDS)
    suite = build(PUBLISHED, flow="dis", scene="efficientnet", objects="centernet")
    assert len(suite.items) == 5 * (86 + 82 + 72)
