"""The toybox examples reject invalid options, choose their prompts evenly and keep their results."""

import os
import sys
from argparse import Namespace
from collections import Counter
from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType

import pytest

from cogvideox import CogVideoX
from cogvideox.errors import UserError
from cogvideox.evaluation.toybox.prompts import held_out_prompts
from tests.docs.pages import ROOT

FACTS = {"color": "red", "shape": "ball"}


def load_example(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = spec_from_file_location(name, ROOT / f"examples/{name}.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--height", "50"], "height=50"),
        (["--guidance-interval", "0.8", "0.2"], "guidance_interval=0.8 0.2"),
        (["--num-inference-steps", "0"], "num_inference_steps=0"),
        (["--models", "no-such-model"], "no-such-model"),
    ],
)
def test_scores_reject_invalid_options(arguments, message, tmp_path, monkeypatch, capsys):
    results = tmp_path / "scores.jsonl"
    monkeypatch.setattr(sys, "argv", ["scores", "--num-prompts", "2", "--results", str(results), *arguments])
    with pytest.raises(SystemExit) as exit:
        load_example("toybox_scores", monkeypatch).main()
    captured = capsys.readouterr()
    assert exit.value.code == 2 and message in captured.err and captured.out == ""
    assert not results.exists()


def test_only_prompts_that_are_too_long_count_as_wrong(monkeypatch):
    scores = load_example("toybox_scores", monkeypatch)
    task = scores.Task("toybox", "a red ball " * 20, FACTS, "full", 0, {"num_inference_steps": 1})
    verdict = scores.judge(task)
    assert verdict and not any(verdict.values())
    with pytest.raises(UserError, match="height=50"):
        scores.judge(scores.Task("toybox", "a red ball", FACTS, "full", 0, {"height": 50}))


def test_a_page_counts_only_errors_of_the_prompt_as_a_rejected_prompt(monkeypatch):
    page, pipe = load_example("toybox_page", monkeypatch), CogVideoX.from_pretrained("toybox")
    assert page.generate(pipe, " ", 0) is None
    assert page.generate(pipe, "a red ball " * 20, 0) is None
    with pytest.raises(UserError, match="seed"):
        page.generate(pipe, "a red ball", -1)


def test_reading_results_changes_the_file_only_if_its_last_line_is_incomplete(tmp_path, monkeypatch):
    scores, path = load_example("toybox_scores", monkeypatch), tmp_path / "scores.jsonl"
    results = scores.Results(path)
    assert not path.exists()
    results.add("a", {"color": True})
    results.add("b", {"color": False})
    before, inode = path.read_bytes(), path.stat().st_ino
    os.utime(path, (1, 1))
    assert scores.Results(path).verdicts == {"a": {"color": True}, "b": {"color": False}}
    assert path.read_bytes() == before and path.stat().st_ino == inode and path.stat().st_mtime == 1
    path.write_bytes(before + b'{"key": "c", "ver')
    assert scores.Results(path).verdicts == results.verdicts
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("number", [1, 3, 4, 5, 7])
def test_a_page_of_mixed_prompts_has_a_third_of_each_set(number, monkeypatch):
    page = load_example("toybox_page", monkeypatch)
    chosen = page.choose_prompts(Namespace(prompts=None, grammar="mixed", num_prompts=number, seed=3))
    sets = held_out_prompts(-(-number // 3), 3)
    counts = Counter(name for prompt in chosen for name, prompts in sets.items() if prompt in prompts)
    assert len(chosen) == number and [counts[name] for name in sets] == [(number + 2 - i) // 3 for i in range(3)]
