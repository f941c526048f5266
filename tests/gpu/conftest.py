"""All tests in this folder need CUDA. `make test-gpu` runs them; without a GPU they are skipped."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _require_gpu(monkeypatch):
    """Skip without a GPU, and turn off TF32, whose mantissa has only 10 bits."""
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
