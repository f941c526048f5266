"""Studies: the protocol is fixed, copies are blind, orders are balanced, votes are durable, results are right."""

import json
from collections import Counter

import pytest

from cogvideox.errors import UserError
from cogvideox.evaluation.human.raters import is_correct, summarize_raters
from cogvideox.evaluation.human.results import compute_results, format_results
from cogvideox.evaluation.human.rubric import CRITERIA, check_choices, check_scores
from cogvideox.evaluation.human.study.plan import PlanSettings, plan_study
from cogvideox.evaluation.human.study.protocol import KEY, RATINGS, STUDY, VIDEOS, read_key, read_study
from cogvideox.evaluation.human.study.schedule import MIN_DISTANCE, tasks_of
from cogvideox.evaluation.human.study.store import RatingStore, export_events
from cogvideox.video import io
from tests.unit.evaluation.human.videos import NAMES, small_study, write_videos

PERFECT = {**dict.fromkeys(CRITERIA, 1), "total": 5}


def test_scores_have_levels_and_a_capped_total():
    assert check_scores(PERFECT)["total"] == 5
    for wrong in ({"instruction": 0}, {"cover": 0.7}, {"total": 6}, {"total": True}, {"extra": 1}):
        with pytest.raises(UserError):
            check_scores({**PERFECT, **wrong})
    assert check_scores({**PERFECT, "instruction": 0, "total": 2})["total"] == 2
    with pytest.raises(UserError):
        check_choices({"overall": "top"}, ("overall",))


def test_the_protocol_is_fixed_before_the_first_vote(tmp_path):
    study = small_study(tmp_path, "single")
    folder = tmp_path / "study"
    assert read_study(folder).hash == study.hash
    assert set(study.models) == {"M1", "M2"} and {e["name"] for e in read_key(folder, study).values()} == set(NAMES)
    with pytest.raises(UserError, match="exists"):
        plan_study(write_videos(tmp_path / "again"), folder)
    data = json.loads((folder / STUDY).read_text())
    assert not any(name in (folder / STUDY).read_text() for name in NAMES)
    data["protocol"]["repeat_fraction"] = 0.5
    (folder / STUDY).write_text(json.dumps(data))
    with pytest.raises(UserError, match="was changed"):
        read_study(folder)
    (folder / KEY).write_text("{}")
    with pytest.raises(UserError, match="changed after"):
        read_key(folder, study)


@pytest.mark.parametrize("mode", ["single", "pair"])
def test_copies_do_not_reveal_their_origin(tmp_path, mode):
    study = small_study(tmp_path, mode)
    sizes = {}
    for item in study.items:
        for name in item.videos:
            path = tmp_path / "study" / VIDEOS / name
            content = path.read_bytes()
            assert not any(word.encode() in content for word in (*NAMES, str(tmp_path)))
            info = io.probe(path)
            sizes.setdefault(item.prompt, set()).add((len(content), path.stat().st_mtime, info.num_frames, info.fps))
            assert (info.height, info.width, info.num_frames) == (36, 48, 8)
    assert all(len(properties) == 1 for properties in sizes.values())


def test_every_rater_has_an_order_with_repeats_on_swapped_sides(tmp_path):
    study = small_study(tmp_path, "pair", num_prompts=20, repeat_fraction=0.25, gold_fraction=0.1)
    orders = {rater: tasks_of(study, rater, number) for number, rater in enumerate("abc")}
    assert orders["a"] == tasks_of(study, "a", 0)
    assert [task.item.id for task in orders["a"]] != [task.item.id for task in orders["b"]]
    for tasks in orders.values():
        assert [task.position for task in tasks] == list(range(20 + 2 + 5))
        first = {task.item.id: task for task in tasks if not task.repeat}
        assert set(first) == {item.id for item in study.items}
        for task in tasks:
            if task.repeat:
                assert task.swapped != first[task.item.id].swapped
                assert task.position > first[task.item.id].position
    swapped = [task.swapped for rater in range(30) for task in tasks_of(study, f"r{rater}", rater) if not task.repeat]
    assert 0.4 < sum(swapped) / len(swapped) < 0.6
    assert MIN_DISTANCE == 10


def test_parts_of_a_study_are_balanced(tmp_path):
    study = small_study(tmp_path, "single", num_prompts=6, items_per_rater=5, repeat_fraction=0.0, gold_fraction=0.0)
    counts = Counter(task.item.id for number in range(12) for task in tasks_of(study, f"r{number}", number))
    assert len(counts) == 12 and set(counts.values()) == {5}


def test_a_part_larger_than_the_study_is_all_of_it(tmp_path):
    study = small_study(tmp_path, "single", num_prompts=2, items_per_rater=50, num_raters=1, repeat_fraction=0.0)
    store = RatingStore(tmp_path / RATINGS, study.hash)
    for task in tasks_of(study, "a", 0):
        store.append("vote", "a", position=task.position, item=task.item.id, swapped=False, answer=PERFECT)
    assert compute_results(study, store.votes()).complete == 1
    store.close()


def test_votes_are_append_only_events(tmp_path):
    study = small_study(tmp_path, "single")
    store = RatingStore(tmp_path / RATINGS, study.hash)
    store.append("vote", "r", position=0, item="a", swapped=False, answer=PERFECT, seconds=3.0)
    store.append("undo", "r", position=0, item="a")
    store.append("vote", "r", position=0, item="a", swapped=False, answer={**PERFECT, "total": 3}, seconds=2.0)
    (vote,) = store.votes("r")
    assert vote.answer is not None and vote.answer["total"] == 3 and len(store.events()) == 3
    with pytest.raises(Exception, match="never changed"):
        store._connection.execute("UPDATE events SET answer = ''")
    assert export_events(store, study.hash, tmp_path / "events.jsonl") == 3
    lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert {line["protocol"] for line in lines} == {study.hash}
    store.close()
    with pytest.raises(UserError, match="another study"):
        RatingStore(tmp_path / RATINGS, "other")
    RatingStore(tmp_path / RATINGS, study.hash).close()  # the failed attempt holds no lock


def vote_all(study, store, answer):
    """Let three raters answer all items; `answer(rater, task)` returns what is answered for the unswapped item."""
    for number in range(3):
        for task in tasks_of(study, f"r{number}", number):
            choices = answer(number, task)
            if task.swapped:
                choices = {k: {"left": "right", "right": "left"}.get(v, v) for k, v in choices.items()}
            store.append(
                "vote",
                f"r{number}",
                position=task.position,
                item=task.item.id,
                swapped=task.swapped,
                answer=choices,
                seconds=4.0,
            )


def test_results_of_single_videos(tmp_path):
    study = small_study(tmp_path, "single", repeat_fraction=0.5)
    store = RatingStore(tmp_path / RATINGS, study.hash)

    def answer(rater, task):
        if task.item.kind == "gold":
            return {**dict.fromkeys(CRITERIA, 0), "total": 0}
        good = task.item.models == ("M1",)
        return {"sensory": 1 if good else 0.5, "instruction": 1, "physics": 1, "cover": 0.5, "total": 4 if good else 3}

    vote_all(study, store, answer)
    results = compute_results(study, store.votes())
    assert results.scores["M1"]["sensory"].value == 1 and results.scores["M2"]["sensory"].value == 0.5
    assert results.differences["M1", "M2"]["total"].value == 1
    assert results.num_votes == 3 * 12 and results.num_raters == 3
    assert all(
        row.gold == 1 and row.self_agreement == 1 and row.bias == 0 and row.seconds == 4 for row in results.raters
    )
    text = format_results(results, study, {"M1": "ours", "M2": "theirs"})
    assert "CogVideoX-5B (paper)" in text and "2.740" in text and "only 3 raters" in text and "ours - theirs" in text
    store.close()


def test_results_of_pairs_do_not_depend_on_sides(tmp_path):
    study = small_study(tmp_path, "pair", num_prompts=10, questions=("sensory", "overall"), repeat_fraction=0.2)
    store = RatingStore(tmp_path / RATINGS, study.hash)
    vote_all(study, store, lambda rater, task: {"sensory": "same", "overall": "left"})
    votes = store.votes()
    results = compute_results(study, votes)
    assert results.counts["overall"] == {"M1": 30} and results.counts["sensory"] == {"same": 30}
    assert list(results.strengths["overall"]) == ["M1", "M2"]
    assert results.strengths["sensory"]["M1"].value == pytest.approx(0, abs=1e-9)
    items = {item.id: item for item in study.items}
    gold = [vote for vote in votes if items[str(vote.item)].kind == "gold"]
    assert gold and not any(is_correct(vote, items[str(vote.item)]) for vote in gold)  # sensory is not the same
    assert all(row.self_agreement == 1 and 0 < row.left < 1 for row in summarize_raters(study, votes))
    assert "2 same" not in format_results(results, study, {"M1": "M1", "M2": "M2"})
    store.close()


def test_gold_items_need_a_question_with_a_known_answer(tmp_path):
    with pytest.raises(UserError, match="gold items answer only"):
        small_study(tmp_path / "a", "pair", questions=("instruction", "physics"))
    study = small_study(tmp_path / "b", "pair", questions=("instruction", "overall"))
    assert [item.answer for item in study.items_of("gold")] == [{"overall": "left"}]


def test_impossible_plans_are_errors(tmp_path):
    models = write_videos(tmp_path / "videos", 2)
    with pytest.raises(UserError, match="two models"):
        plan_study({"a": models[NAMES[0]]}, tmp_path / "s", PlanSettings(mode="pair"))
    for path in models[NAMES[1]].glob("*.json"):
        path.write_text(path.read_text().replace("prompt ", "other "))
    with pytest.raises(UserError, match="no prompt"):
        plan_study(models, tmp_path / "s")
    assert not (tmp_path / "s").exists()
