"""All tests in this folder need CUDA. `make test-gpu` runs them; without a device they are skipped."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _on_a_gpu(monkeypatch):
    """Skip without a device, and turn off TF32, which has a mantissa of 10 bits like float16."""
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
