import json
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from cogvideox.errors import UserError
from cogvideox.training.metrics.tracker import StepWork, Tracker, format_duration, heartbeat_line


def lines(tracker: Tracker) -> list[dict]:
    return [json.loads(line) for line in tracker.path.read_text().splitlines()]


def test_means_are_written_at_every_interval_and_after_the_last_step(tmp_path, capsys):
    tracker = Tracker(tmp_path, num_steps=5, interval=2)
    for step in range(1, 6):
        tracker.step(step, {"loss": torch.tensor(float(step)), "lr": 0.5}, StepWork(8 * step))
    tracker.close()
    assert [(line["step"], line["loss"]) for line in lines(tracker)] == [(2, 1.5), (4, 3.5), (5, 5.0)]
    samples = [line["samples_per_second"] * line["ms_per_step"] / 1000 for line in lines(tracker)]
    assert samples == pytest.approx([12, 28, 40], rel=1e-5)  # the steps of an interval may have different batch sizes
    printed = capsys.readouterr().err.splitlines()
    assert len(printed) == 3 and printed[0].startswith("step 2/5 | loss 1.5 | lr 0.5 | ")
    assert [line["samples"] for line in lines(tracker)] == [24, 80, 120]
    assert not any({"tokens_per_second", "mfu"} & line.keys() for line in lines(tracker))


def test_tokens_per_second_and_mfu_are_written_if_known(tmp_path):
    tracker = Tracker(tmp_path, num_steps=4, start=2, samples=100, interval=2, peak=1e3)
    for step in (3, 4):
        tracker.step(step, {"loss": 1.0}, StepWork(5, tokens=20, flops=3.0))
    tracker.close()
    (line,) = lines(tracker)
    seconds = 2 * line["ms_per_step"] / 1000
    assert line["samples"] == 110
    assert line["tokens_per_second"] * seconds == pytest.approx(40, rel=1e-5)
    assert line["mfu"] * seconds == pytest.approx(6e-3, rel=1e-5)


def test_a_resumed_run_drops_repeated_steps_and_incomplete_lines(tmp_path):
    tracker = Tracker(tmp_path, num_steps=9, interval=1)
    for step in range(1, 6):
        tracker.step(step, {"loss": step}, StepWork(1))
    tracker.close()
    with tracker.path.open("a") as file:
        file.write('{"step": 6, "lo')
    resumed = Tracker(tmp_path, num_steps=9, start=3, interval=1)
    resumed.step(4, {"loss": 40.0}, StepWork(1))
    resumed.close()
    assert [(line["step"], line["loss"]) for line in lines(resumed)] == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0)]


@pytest.mark.parametrize("name", ["existing.jsonl", "missing.jsonl"])
def test_a_symbolic_link_is_replaced_and_its_target_unchanged(tmp_path, name):
    (tmp_path / "existing.jsonl").write_text("text")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/metrics.jsonl").symlink_to(tmp_path / name)
    tracker = Tracker(tmp_path / "run", num_steps=9, interval=1)
    tracker.step(1, {"loss": 1.0}, StepWork(1))
    tracker.close()
    assert len(lines(tracker)) == 1 and (tmp_path / "existing.jsonl").read_text() == "text"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["existing.jsonl", "run"]


def test_a_nonfinite_loss_raises(tmp_path):
    tracker = Tracker(tmp_path, num_steps=9, interval=1)
    with pytest.raises(UserError, match=r"the loss is nan at step 1.*optim\.lr"):
        tracker.step(1, {"loss": torch.tensor(float("nan"))}, StepWork(1))


def test_an_unwritable_folder_is_reported(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*metrics\.jsonl"):
        Tracker(tmp_path / "file" / "run", num_steps=9)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full exists only on Linux")
def test_a_full_disk_is_reported(tmp_path):
    tracker = Tracker(tmp_path, num_steps=9)
    tracker._file.close()
    tracker._file = Path("/dev/full").open("w", buffering=1)  # noqa: SIM115 - closing it fails too
    with pytest.raises(UserError, match=r"cannot write .*metrics\.jsonl: the disk .* is full"):
        tracker.write(1, {"loss": 1.0})
    with suppress(OSError):
        tracker._file.close()


def test_heartbeat_lines_of_vae_and_diffusion_training():
    vae = {"loss": 0.41234, "lr": 1e-3, "samples": 7680, "ms_per_step": 500.0, "samples_per_second": 64.0}
    assert (
        heartbeat_line(120, 10_000, vae)
        == "step   120/10000 | loss 0.4123 | lr 0.001 | 500 ms/step | 7,680 clips | 64.0/s | ETA 82 min"
    )
    diffusion = vae | {"grad_norm": 0.5, "tokens_per_second": 5432.1, "useful": 0.997, "mfu": 0.381, "loss_3": 1}
    assert heartbeat_line(9_999, 10_000, diffusion) == (
        "step  9999/10000 | loss 0.4123 | lr 0.001 | grad 0.5 | 500 ms/step | 7,680 clips | 64.0/s | 5,432 tokens/s"
        " | 99.7% useful | MFU 38.1% | ETA 0 s"
    )


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (89.0, "89 s"), (90.0, "2 min"), (3600.0, "60 min"), (11e3, "3 h 03 min")]
)
def test_format_duration(seconds, text):
    assert format_duration(seconds) == text


def test_validation_results_are_written_and_the_first_ones_printed(tmp_path, capsys):
    results = {"validation/loss": 0.25, **{f"validation/loss_{k}": 1.0 + k for k in range(10)}}
    tracker = Tracker(tmp_path, num_steps=20)
    tracker.write_validation(10, results)
    tracker.close()
    assert "step 10/20 | validation/loss 0.25 | validation/loss_0 1 | validation/loss_1 2\n" in capsys.readouterr().err
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 10} | results
