"""VAE training on several ranks, split over clips, frames or both, equals training in one process."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cogvideox.training.config import VAETraining
from cogvideox.training.vae.trainer import train
from tests import tiny_runs
from tests.distributed.spawn import as_torchrun

TINY = tiny_runs.vae_gan_run(num_steps=6, save_interval=3, validate_interval=0)
SETTINGS = replace(
    TINY,
    clips=replace(TINY.clips, num_frames=13),
    crop_steps=0,
    whole_clips=True,
    perceptual_frames=3,
    disc_start=2,
    disc_warmup_steps=2,
    optim=replace(TINY.optim, lr=1e-6),
    disc_optim=replace(TINY.disc_optim, lr=1e-6),
)


def run(settings: VAETraining, out: Path) -> None:
    assert train(settings, out) == out


def history(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def single_process_run(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("single") / "run"
    assert train(SETTINGS, out) == out
    return out


@pytest.mark.parametrize(("world", "sequence"), [(2, 2), (2, 1), (4, 2)])
def test_several_ranks_equal_one_process(world, sequence, single_process_run, tmp_path):
    """Losses, gradient norms and the discriminator's weight, for clips (13 frames, split unevenly) and images."""
    out = tmp_path / "run"
    as_torchrun(world, run, replace(SETTINGS, context_parallel=sequence), out)
    for actual, expected in zip(history(out), history(single_process_run), strict=True):
        assert actual.keys() == expected.keys()
        for name in expected.keys() - {"ms_per_step", "samples_per_second"}:
            # The perceptual features have kinks, and rounding may cross one.
            assert actual[name] == pytest.approx(expected[name], rel=5e-4, abs=1e-5), (actual["step"], name)
    assert (out / "vae/config.json").is_file()


def test_a_run_resumes_on_another_number_of_ranks(tmp_path):
    out, first_part = tmp_path / "run", replace(SETTINGS, run=replace(SETTINGS.run, num_steps=3), context_parallel=2)
    first_part = replace(first_part, optim=replace(first_part.optim, schedule="constant"))
    settings = replace(SETTINGS, optim=first_part.optim)
    as_torchrun(2, run, first_part, out)
    assert train(settings, out, resume=True) == out
    uninterrupted = train(settings, tmp_path / "uninterrupted")
    last = [next(line for line in reversed(history(run)) if "loss" in line) for run in (out, uninterrupted)]
    assert last[0]["loss"] == pytest.approx(last[1]["loss"], rel=1e-4)
