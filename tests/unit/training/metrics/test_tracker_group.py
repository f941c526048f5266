"""Trackers receive each step of an interrupted run once, and their errors do not end the run."""

import pytest
from torch import nn

from cogvideox.training.metrics import experiment_trackers
from cogvideox.training.metrics.experiment_trackers import WandB
from cogvideox.training.metrics.tracker_group import TrackerGroup
from cogvideox.training.run import training_run
from tests import tiny_runs


class Recorder:
    """A tracker that records what it receives, by the name of its run."""

    purges_repeated_steps = False

    def __init__(self, runs: dict[str, dict[str, list[int]]], name: str) -> None:
        self.received = runs.setdefault(name, {"loss": [], "samples": [], "closed": []})

    def log(self, step, values):
        self.received["loss"] += [step] if "loss" in values else []

    def log_samples(self, step, sheet, video):
        self.received["samples"].append(step)

    def close(self, *, failed):
        self.received["closed"].append(int(failed))


class Broken(Recorder):
    def log(self, step, values):
        raise RuntimeError("no\nconnection")

    log_samples = log

    def close(self, *, failed):
        raise OSError("still no connection")


@pytest.fixture
def runs(monkeypatch):
    """Replace Weights & Biases by a recorder, and return what its runs receive."""
    runs = {}
    monkeypatch.setattr(experiment_trackers, "WandB", lambda out, name, settings: Recorder(runs, name))
    monkeypatch.setattr("cogvideox.training.run.check_packages", lambda names: None)
    return runs


def train(out, trackers=("wandb",), *, dies_at: int | None = None, save_interval: int = 2) -> None:
    """Train from the newest checkpoint to step 5, or until the process dies after it has logged a step."""
    settings = tiny_runs.vae_run(num_steps=5, save_interval=save_interval, trackers=trackers)
    with training_run(settings, out, resume=True) as run:
        run.restore({"net": nn.Linear(2, 2)}, lambda done: 0)
        for _ in run.steps(run.prefetch(lambda step: step)):
            run.tracker.write(run.done, {"loss": 1.0})
            run.sample_path.parent.mkdir(exist_ok=True)
            run.sample_path.touch()
            run.tracker.write_samples(run.done, run.sample_path)
            if run.done == dies_at:
                raise KeyboardInterrupt
            run.save()


def test_steps_repeated_after_two_crashes_are_sent_once(tmp_path, runs):
    for dies_at in (4, 3):
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, dies_at=dies_at)
    train(tmp_path)
    (received,) = runs.values()
    assert received == {"loss": [1, 2, 3, 4, 5], "samples": [1, 2, 3, 4, 5], "closed": [1, 1, 0]}


def test_a_run_restarted_before_its_first_checkpoint_sends_all_steps_to_a_new_run(tmp_path, runs):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, dies_at=3, save_interval=4)
    train(tmp_path, save_interval=4)
    first, second = runs.values()
    assert first["loss"] == first["samples"] == [1, 2, 3]
    assert second["loss"] == second["samples"] == [1, 2, 3, 4, 5]


def test_a_tracker_added_when_resuming_receives_repeated_steps(tmp_path, runs):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, trackers=(), dies_at=4)
    train(tmp_path)
    (received,) = runs.values()
    assert received["loss"] == received["samples"] == [3, 4, 5]


def test_an_error_of_a_tracker_is_noted_once_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    runs = {}

    def fail(*_):
        raise ConnectionError("refused")

    monkeypatch.setattr(experiment_trackers, "TensorBoard", fail)
    monkeypatch.setattr(experiment_trackers, "WandB", lambda out, name, settings: Broken(runs, name))
    monkeypatch.setattr(experiment_trackers, "Trackio", lambda name, settings: Recorder(runs, name))
    monkeypatch.setattr("cogvideox.training.run.check_packages", lambda names: None)
    train(tmp_path, trackers=("tensorboard", "wandb", "trackio"))
    (received,) = runs.values()
    assert received == {"loss": [1, 2, 3, 4, 5], "samples": [1, 2, 3, 4, 5], "closed": [0]}
    notes = [line for line in capsys.readouterr().err.splitlines() if "note:" in line]
    assert len(notes) == 2
    assert "tensorboard" in notes[0] and "refused" in notes[0]
    assert "wandb" in notes[1] and "RuntimeError: no connection" in notes[1]


def test_trackers_are_closed_if_opening_the_next_is_interrupted():
    runs = {}

    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        TrackerGroup({"wandb": lambda: Recorder(runs, "run"), "trackio": interrupt})
    assert runs["run"]["closed"] == [1]


@pytest.mark.parametrize("text", ["{", "[1]", '{"wandb": 3}', '{"wandb": {"loss": "x"}}'])
def test_a_damaged_file_of_steps_is_ignored(tmp_path, text):
    (tmp_path / "tracker_steps.json").write_text(text)
    runs = {}
    group = TrackerGroup({"wandb": lambda: Recorder(runs, "run")}, tmp_path / "tracker_steps.json")
    group.log(1, {"loss": 1.0})
    assert runs["run"]["loss"] == [1]


@pytest.mark.parametrize(
    ("environment", "host", "mode"),
    [
        ({}, None, "offline"),
        ({}, "other.example", "offline"),
        ({}, "api.wandb.ai", None),
        ({"WANDB_API_KEY": "a" * 40}, None, None),
        ({"WANDB_MODE": "disabled"}, None, None),
    ],
)
def test_wandb_records_offline_without_a_key_and_asks_nothing(tmp_path, monkeypatch, capsys, environment, host, mode):
    """The network is not used: `init` is replaced."""
    wandb = pytest.importorskip("wandb")
    (tmp_path / "netrc").write_text(f"machine {host} login user password {'a' * 40}\n" if host else "")
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"NETRC": str(tmp_path / "netrc"), "WANDB_CONFIG_DIR": str(tmp_path), **environment}.items():
        monkeypatch.setenv(name, value)
    modes = []
    monkeypatch.setattr(wandb, "init", lambda mode=None, **options: modes.append(mode))
    wandb.teardown()  # forgets the settings and the login of other tests
    try:
        WandB(tmp_path, "run", tiny_runs.vae_run())
    finally:
        wandb.teardown()
    assert modes == [mode]
    assert ("records the run offline" in capsys.readouterr().err) == (mode == "offline")
