"""Results on disk."""

from dataclasses import dataclass

from cogvideox.curation.results import Result, ResultStore
from cogvideox.curation.stage import Column


@dataclass(frozen=True)
class Length:
    name = "length"
    version = 1
    columns = (Column("length", "float", "Duration."),)
    limit: int = 3

    def weights_hash(self) -> str:
        return ""


def test_a_killed_run_keeps_its_results_while_other_stages_and_settings_are_used(tmp_path):
    ResultStore(tmp_path, [Length()]).add([Result("length", "a", {"length": 2.0})])  # killed before it compacts
    log = tmp_path / "results/log-0-of-1.jsonl"
    with log.open("a") as file:
        file.write('["cut')
    ResultStore(tmp_path, [])
    other = ResultStore(tmp_path, [Length(4)])
    other.add([Result("length", "b", {"length": 3.0})])
    other.compact()
    assert log.read_text().count("\n") == 1
    store = ResultStore(tmp_path, [Length()])
    assert (store.has("length", "a"), store.has("length", "b")) == (True, False)
    assert not log.exists()
    assert ResultStore(tmp_path, [Length(4)]).has("length", "b")


def test_a_success_is_not_hidden_by_an_older_failure_in_the_log_of_a_killed_job(tmp_path):
    ResultStore(tmp_path, [Length()], "0-of-4").add([Result("length", "a", {}, "disk gone")])  # killed
    retry = ResultStore(tmp_path, [Length()])
    assert retry.forget_failures() == 1
    retry.add([Result("length", "a", {"length": 2.0})])
    retry.compact()
    result = ResultStore(tmp_path, [Length()]).get("length", "a")
    assert result is not None and result.error is None
