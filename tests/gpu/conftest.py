"""Everything in this room needs CUDA: `make test-gpu` runs it, and without a device it is skipped."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _on_a_gpu(monkeypatch):
    """Skips without a device. Convolutions are those of float32, not of TF32, which has 10 bits like float16."""
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
