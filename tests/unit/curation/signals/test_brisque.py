"""BRISQUE: its fits against distributions with known parameters, its features on degraded renders, and its files."""

import math
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("cv2")

from cogvideox.curation.model_files import FOLDER_VARIABLE
from cogvideox.curation.signals.models import brisque
from cogvideox.errors import UserError
from cogvideox.toybox.effects import camera, degradation


@pytest.mark.parametrize(("shape", "left", "right"), [(1.0, 0.5, 1.0), (2.0, 1.0, 1.0), (4.0, 2.0, 0.7)])
def test_fit_finds_the_parameters_of_an_asymmetric_gaussian(shape, left, right):
    rng = np.random.default_rng(0)
    # |x| of a generalized Gaussian is a power of a gamma variable; each side has a weight in proportion to its width.
    magnitude = rng.gamma(1 / shape, size=200_000) ** (1 / shape)
    magnitude *= math.sqrt(math.gamma(1 / shape) / math.gamma(3 / shape))
    on_left = rng.random(len(magnitude)) < left / (left + right)
    fitted = brisque.fit_asymmetric_gaussian(np.where(on_left, -left * magnitude, right * magnitude))
    assert fitted == pytest.approx((shape, left, right), rel=0.03)


def test_features_change_with_degradations_and_not_with_reflection():
    frame = camera.texture(3, (240, 320))
    plain = brisque.features(frame)
    assert plain.shape == (36,) and np.isfinite(plain).all()
    assert brisque.features(np.ascontiguousarray(frame[:, ::-1]))[[0, 1, 18, 19]] == pytest.approx(
        plain[[0, 1, 18, 19]], abs=0.02
    )
    for damaged in (degradation.blur(frame[None], 3.0)[0], degradation.noise(frame[None], 25.0, 1)[0]):
        assert np.abs(brisque.features(damaged) - plain).max() > 0.2


def test_frame_of_one_color_has_no_score(tmp_path: Path):
    assert not np.isfinite(brisque.features(np.full((64, 64, 3), 128, np.uint8))).all()


def test_missing_and_changed_files_are_named(tmp_path: Path, monkeypatch):
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    assert "brisque_model_live.yml was not found" in brisque.Brisque().missing_requirements()[0]
    (tmp_path / "brisque_model_live.yml").write_text("other")
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    assert "differs from the published file" in brisque.Brisque().missing_requirements()[0]
    signal = brisque.Brisque(model=str(tmp_path / "brisque_model_live.yml"), range=str(tmp_path / "none.yml"))
    assert len(signal.missing_requirements()) == 1 and "none.yml is not a file" in signal.missing_requirements()[0]


@pytest.mark.parametrize("content", ["", "%YAML:1.0\n---\nrange: 3\n", "not a model"])
def test_other_files_are_rejected(content: str, tmp_path: Path):
    (tmp_path / "model.yml").write_text(content)
    with pytest.raises(UserError, match="not OpenCV's model of BRISQUE"):
        brisque.load_regression(str(tmp_path / "model.yml"), str(tmp_path / "model.yml"))
