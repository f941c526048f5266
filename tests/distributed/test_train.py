"""`torchrun -m cogvideox train`: training on several ranks from the command line."""

from pathlib import Path

from tests.distributed.spawn import torchrun


def test_vae_training(tmp_path: Path):
    out = tmp_path / "run"
    small = ["run.num_steps=2", "run.batch_size=2", "crop_steps=0", "image_interval=0", "validation.num_clips=2"]
    process = torchrun(
        "train", "toybox-vae-1", "--out", str(out), "init_from=toybox", "run.device=cpu", "loss.gan=0", *small
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("trained: ") == 1
    assert (out / "vae/config.json").exists()
    assert (out / "checkpoints/latest").read_text().strip() == "step-00000002"


def test_a_single_process_recipe_rejects_torchrun(tmp_path: Path):
    process = torchrun("train", "toybox", "--out", str(tmp_path / "run"))
    assert process.returncode != 0
    assert "toybox training runs in a single process" in process.stderr
    assert not (tmp_path / "run").exists()
