"""Training on a folder with damaged files uses the valid clips and reports why the others are rejected."""

import json
import os
from pathlib import Path

from cogvideox.cli.main import main
from cogvideox.dataset.latents.latent_store import LatentStore
from cogvideox.transformer.lora.io import read_lora
from cogvideox.video import io
from tests.unit.dataset import clips

SIZES = {"odd": (35, 51), "upright": (48, 32), "thin": (17, 90), "large": (180, 322)}
SETTINGS = [
    *("target.num_frames=17", "target.height=32", "target.width=32"),
    *("run.num_steps=4", "run.log_interval=1", "run.device=cpu", "samples.prompts=[]"),
]


def test_training_on_a_folder_with_damaged_files_finishes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "data"
    data.mkdir()
    for i, (name, size) in enumerate(SIZES.items()):
        io.write(data / f"{name}.mp4", clips.pixels(17, *size, seed=i), 8.0)
        (data / f"{name}.txt").write_text(f"a {name} video")
    clips.image(data / "image.png", size=(33, 47))
    reasons = clips.write_unusable(data)

    assert main(("train", "toybox-lora", "--data", "data", "--out", "run", *SETTINGS)) == os.EX_OK

    assert read_lora(tmp_path / "run/pytorch_lora_weights.safetensors").layers
    steps = [json.loads(line)["step"] for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4]
    (folder,) = (tmp_path / "run/stores").iterdir()
    store = LatentStore(folder)
    assert {Path(row.source).stem for row in store.rows} == {*SIZES, "image"}
    lines = capsys.readouterr().err.splitlines()
    for name, reason in reasons.items():
        assert any(name in line and reason in line for line in lines), name
    assert {Path(source).name for source, _ in store.rejects} == set(reasons)
