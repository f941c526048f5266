"""VAE training on several ranks, split over clips, frames or both, equals that of one process."""

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
    disc_lead=2,
    optim=replace(TINY.optim, lr=1e-6),
    disc_optim=replace(TINY.disc_optim, lr=1e-6),
)


def run(settings: VAETraining, out: Path) -> None:
    assert train(settings, out) == out


def history(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "run"
    assert train(SETTINGS, out) == out
    return out


@pytest.mark.parametrize(("world", "sequence"), [(2, 2), (2, 1), (4, 2)])
def test_several_ranks_equal_one_process(world, sequence, alone, tmp_path):
    """Losses, gradient norms and the discriminator's weight, for clips (13 frames, split unevenly) and images."""
    out = tmp_path / "run"
    as_torchrun(world, run, replace(SETTINGS, context_parallel=sequence), out)
    for ours, theirs in zip(history(out), history(alone), strict=True):
        assert ours.keys() == theirs.keys()
        for name in theirs.keys() - {"ms_per_step", "samples_per_second"}:
            # The perceptual features have kinks, and rounding may cross one.
            assert ours[name] == pytest.approx(theirs[name], rel=5e-4, abs=1e-5), (ours["step"], name)
    assert (out / "vae/config.json").is_file()


def test_resumes_on_another_number_of_ranks(alone, tmp_path):
    out, first = tmp_path / "run", replace(SETTINGS, run=replace(SETTINGS.run, num_steps=3), context_parallel=2)
    first = replace(first, optim=replace(first.optim, schedule="constant"))
    rest = replace(SETTINGS, optim=first.optim)
    as_torchrun(2, run, first, out)
    assert train(rest, out, resume=True) == out
    whole = train(rest, tmp_path / "whole")
    ends = [next(line for line in reversed(history(run)) if "loss" in line) for run in (out, whole)]
    assert ends[0]["loss"] == pytest.approx(ends[1]["loss"], rel=1e-4)
