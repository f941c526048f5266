"""Tiny random models of the five variants, loaded once."""

import numpy as np
import pytest

from cogvideox.generation.pipeline import CogVideoX
from tests import tiny


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {name: tiny.write(root / name, name) for name in (*tiny.TRANSFORMERS, *tiny.IMAGE_TRANSFORMERS)}


@pytest.fixture(scope="session")
def pipes(folders):
    return {variant: CogVideoX.from_pretrained(path) for variant, path in folders.items()}


@pytest.fixture
def clip():
    """Return a moving pattern [17 24 40 3], whose size differs from that of the models."""
    t, y, x = np.ogrid[:17, :24, :40]
    waves = np.sin((x + 2 * t) / 5)[..., None] * np.array([1, 0.5, 0.2]) + np.cos(y / 4)[..., None] * 0.3
    return (waves.clip(-1, 1) * 100 + 128).astype(np.uint8)
