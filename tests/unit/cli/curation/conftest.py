"""Fixtures: an annotated curation folder and a label classifier trained on it."""

from pathlib import Path

import pytest

from cogvideox.cli.main import main
from cogvideox.curation.manifest import read_manifest
from cogvideox.toybox.effects import camera, degradation
from cogvideox.video import io

NUMBER = 24


@pytest.fixture(scope="session")
def blurred_raw(tmp_path_factory) -> Path:
    """Clips, every other one of which is blurred."""
    folder = tmp_path_factory.mktemp("labels") / "raw"
    folder.mkdir()
    for index in range(NUMBER):
        canvas = camera.texture(index, (160, 200), 1.0)
        clip = camera.film(canvas, camera.pan(18, (1.0, 0.4)), (64, 96))
        io.write(folder / f"{index:02d}.mp4", degradation.blur(clip, 3.0) if index % 2 else clip, 16.0)
    return folder


@pytest.fixture(scope="session")
def labelled(blurred_raw) -> Path:
    output = blurred_raw.parent / "out"
    (blurred_raw.parent / "recipe.yaml").write_text(
        "signals: {picture: {}, stillness: {}}\nduplicates: {max_bits: -1}\n"
    )
    assert main(["curate", str(blurred_raw), str(output), "--recipe", str(blurred_raw.parent / "recipe.yaml")]) == 0
    rows = ["clip_id,annotator,low_quality"]
    for row in read_manifest(output).to_pylist():
        rows.append(f"{row['id']},ann,{'true' if int(row['source'][:2]) % 2 else 'false'}")
    (blurred_raw.parent / "annotations.csv").write_text("\n".join(rows) + "\n")
    assert main(["labels", "import", str(output), str(blurred_raw.parent / "annotations.csv")]) == 0
    assert main(["labels", "train", str(output), "--test-fraction", "0.3"]) == 0
    return output
