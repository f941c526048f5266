"""Experiment trackers receive settings, metrics and samples, and a resumed run continues theirs. No network."""

import json
import os
import shutil
import sqlite3
import struct
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from cogvideox.errors import UserError
from cogvideox.training.metrics import experiment_trackers
from cogvideox.training.metrics.experiment_trackers import check_packages, open_trackers
from cogvideox.training.metrics.tracker import Tracker
from cogvideox.training.sample_sheet import write_sheet
from tests.tiny_runs import diffusion_run, overrides, toybox_run, vae_run, write_vae

TRACKERS = ("tensorboard", "wandb", "trackio")


def test_a_missing_package_is_one_sentence_with_the_command(monkeypatch):
    monkeypatch.setattr(experiment_trackers, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"^run.trackers=wandb needs the package wandb: pip install 'cogvideox\[trackers"
    ):
        check_packages(["wandb"])


def test_a_folder_with_the_name_of_a_package_is_not_the_package(monkeypatch, tmp_path):
    (tmp_path / "wandb").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with pytest.raises(UserError, match="needs the package wandb"):
        check_packages(["wandb"])


def test_tensorboard_has_settings_metrics_and_samples_and_replaces_repeated_steps(tmp_path):
    pytest.importorskip("tensorboard")
    settings = vae_run()

    def open_at(start: int) -> Tracker:
        def opened():
            return open_trackers(["tensorboard"], tmp_path, start, settings, print)

        return Tracker(tmp_path, num_steps=4, start=start, open_trackers=opened)

    tracker = open_at(0)
    for step in (1, 2, 3):
        tracker.write(step, {"loss": float(step)})
    sheet = tmp_path / "samples/step-00000002.png"
    sheet.parent.mkdir()
    write_sheet(sheet, torch.zeros(2, 5, 16, 16, 3, dtype=torch.uint8), ["a ball", "a cube"], fps=8.0)
    tracker.write_samples(2, sheet)
    tracker.close()
    tracker = open_at(2)
    for step in (3, 4):
        tracker.write(step, {"loss": 10.0 * step})
    tracker.close()

    events = read_events(tmp_path)
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 1), (2, 2), (3, 30), (4, 40)]
    assert set(events.Tags()["images"]) == {"samples/sheet", "samples/video"}
    assert events.Images("samples/video")[0].encoded_image_string.startswith(b"GIF89a")
    assert "| optim.lr | 0.01 |" in events.Tensors("settings/text_summary")[0].tensor_proto.string_val[0].decode()


def read_events(folder: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder / "tensorboard")).Reload()


@pytest.mark.slow
@pytest.mark.parametrize("trainer", ["vae", "toybox", "diffusion"])
def test_each_trainer_logs_to_all_trackers_and_a_resumed_run_continues_them(tmp_path, trainer):
    names = [name for name in TRACKERS if name == "tensorboard" or find_spec(name) or os.environ.get("CI")]
    changes = {"run.trackers": ",".join(names)}
    if trainer == "vae":
        recipe, settings = "toybox-vae", vae_run()
        changes["run.validate_interval"] = "1"
    elif trainer == "toybox":
        recipe, settings = "toybox", toybox_run(write_vae(tmp_path / "vae"))
        changes["sampling.interval"] = "1"
    else:
        recipe, settings = "sft", diffusion_run(tmp_path)
        changes |= {"samples.prompts": "[a red ball]", "samples.interval": "1"}
    arguments = overrides(recipe, settings)
    out = tmp_path / "run"
    pids = [train(tmp_path, recipe, arguments, changes | {"run.num_steps": "2"}, resume=False)]
    shutil.rmtree(out / "checkpoints/step-00000002")  # as if it had not been saved yet: step 2 is repeated
    (out / "checkpoints/latest").write_text("step-00000001\n")
    pids.append(train(tmp_path, recipe, arguments, changes | {"run.num_steps": "3"}, resume=True))
    assert not [process for process in psutil.process_iter(["cmdline"]) if is_service_of(process, pids)]

    assert [event.step for event in read_events(out).Scalars("loss")] == [1, 2, 3]
    assert {"samples/sheet", "samples/video"} <= set(read_events(out).Tags()["images"])
    run_name = (out / "tracker_run.txt").read_text().strip()
    if "wandb" in names:
        check_wandb(out, run_name)
    if "trackio" in names:
        check_trackio(tmp_path / "trackio", run_name)


def train(folder: Path, recipe: str, arguments: list[str], changes: dict[str, str], *, resume: bool) -> int:
    arguments = [argument for argument in arguments if argument.partition("=")[0] not in changes]
    arguments += [f"{name}={value}" for name, value in changes.items()]
    command = [sys.executable, "-m", "cogvideox", "train", recipe, *arguments, "--out", str(folder / "run")]
    environment = os.environ | {
        "TRACKIO_DIR": str(folder / "trackio"),
        "WANDB_MODE": "offline",
        "WANDB_ERROR_REPORTING": "false",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command += ["--resume"] if resume else []
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            out, error = process.communicate(timeout=300)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert process.returncode == 0, error
    assert out.startswith("trained: ") and out.count("\n") == 1  # trackers print to stderr
    return process.pid


def is_service_of(process: psutil.Process, pids: list[int]) -> bool:
    command = process.info["cmdline"] or []
    return "wandb-core" in "".join(command[:1]) and any(str(pid) in command for pid in pids)


def check_wandb(out: Path, run_name: str) -> None:
    from wandb.proto.wandb_internal_pb2 import Record

    folders = sorted((out / "wandb").glob("offline-run-*"))
    assert [folder.name.endswith(run_name) for folder in folders] == [True, True]
    steps, keys = [], set()
    for folder in folders:
        (file,) = folder.glob("*.wandb")
        for data in read_log(file.read_bytes()):
            record = Record.FromString(data)
            if record.HasField("run"):
                keys |= {item.key for item in record.run.config.update}
            names = {item.key or ".".join(item.nested_key) for item in record.history.item}
            steps += [record.history.step.num] if "loss" in names else []
        assert list(folder.glob("files/media/images/samples/sheet*.png")) and list(
            folder.glob("files/media/videos/**/*.mp4")
        )
    assert steps == [1, 2, 3]
    assert {"optim", "run"} <= keys


def read_log(data: bytes):
    """Yield the records of a log in LevelDB's format: blocks of 32 KiB, and headers of checksum, length and type."""
    position, parts = 7, []
    while position + 7 <= len(data):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        parts.append(data[position + 7 : position + 7 + length])
        position += 7 + length
        if kind in (1, 4):  # a full record, or its last part
            yield b"".join(parts)
            parts = []


def check_trackio(folder: Path, run_name: str) -> None:
    database = sqlite3.connect(folder / "cogvideox.db")
    rows = list(database.execute("SELECT run_name, run_id, step, metrics FROM metrics ORDER BY id"))
    (config,) = [json.loads(config) for (config,) in database.execute("SELECT config FROM configs")]
    database.close()
    assert {row[0] for row in rows} == {run_name} and len({row[1] for row in rows}) == 1
    values = [(step, json.loads(metrics)) for _, _, step, metrics in rows]
    losses = [(step, value["loss"]) for step, value in values if "loss" in value]
    assert [step for step, _ in losses] == [1, 2, 3] and np.isfinite([loss for _, loss in losses]).all()
    assert [step for step, value in values if "samples/video" in value] == [1, 2, 3]
    media = [value["samples/video"] for _, value in values if "samples/video" in value]
    assert all((folder / "media" / item["file_path"]).is_file() for item in media)
    assert config["run"]["num_steps"] >= 2
