"""Names on the Hugging Face hub, without a network: what was fetched before is used, anything else is one sentence."""

import pytest

from cogvideox.errors import UserError
from cogvideox.pretrained import model_spec
from cogvideox.pretrained.conversion.detect import detect_checkpoint
from tests import tiny

REVISION = "0" * 40


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the hub's library, which tests keep offline."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_a_model_that_was_fetched_before_is_found(cache):
    home = cache / "models--someone--small"
    model = tiny.write(home / "snapshots" / REVISION)
    (home / "refs").mkdir()
    (home / "refs/main").write_text(REVISION)
    spec = model_spec.read_spec("someone/small")
    assert (spec.name, spec.path) == ("someone/small", model)
    assert detect_checkpoint("someone/small").variant == "2b"


def test_without_a_network_the_sentence_says_so(cache):
    with pytest.raises(UserError, match=r"no folder someone/else.*not in the cache, and the Hub cannot be reached"):
        model_spec.find_model("someone/else")
    with pytest.raises(UserError, match="it is not a valid name"):
        model_spec.find_model("some one/else")
