"""Hugging Face Hub names without a network: cached models are used, and anything else is a clear error."""

import pytest

from cogvideox.errors import UserError
from cogvideox.pretrained import model_spec
from cogvideox.pretrained.conversion.detect import detect_checkpoint
from tests import tiny

REVISION = "0" * 40


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Create an empty huggingface_hub cache (the hub is offline in tests)."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_a_cached_model_is_found_offline(cache):
    repo_folder = cache / "models--someone--small"
    model = tiny.write(repo_folder / "snapshots" / REVISION)
    (repo_folder / "refs").mkdir()
    (repo_folder / "refs/main").write_text(REVISION)
    spec = model_spec.read_spec("someone/small")
    assert (spec.name, spec.path) == ("someone/small", model)
    assert detect_checkpoint("someone/small").variant == "2b"


def test_an_error_says_that_the_hub_cannot_be_reached(cache):
    with pytest.raises(UserError, match=r"the folder someone/else does not exist.*not cached.*Hub is not reachable"):
        model_spec.find_model("someone/else")
    with pytest.raises(UserError, match="it is not a valid name"):
        model_spec.find_model("some one/else")
