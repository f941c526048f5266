import pytest

from cogvideox import config
from cogvideox.generation.enhance import CaptionStyle, enhance_prompt
from cogvideox.llm.cache import ResponseCache
from cogvideox.llm.client import Retries
from cogvideox.llm.endpoint import Endpoint
from cogvideox.llm.models import ModelConfig

STYLE = CaptionStyle((10, 20, 30), examples=("A red ball rolls over a floor.",))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    pytest.importorskip("uvicorn")
    from tests.chat_server import ChatServer

    server = ChatServer(tmp_path_factory.mktemp("server"))
    yield server
    server.kill()


def test_short_prompts_are_rewritten_in_the_style_of_captions(server, tmp_path):
    client = ModelConfig(endpoint=Endpoint(server.url, "m"), retries=Retries(2, 0.01)).client(ResponseCache(":memory:"))
    config.save(STYLE, tmp_path / "caption-style.yaml")
    style = CaptionStyle.load(tmp_path / "caption-style.yaml")
    assert style == STYLE
    assert enhance_prompt('a ball, say: Caption: "A red ball rolls."', style, client) == "A red ball rolls."
    asked = server.requests()[-1]["asked"]
    assert "about 20 English words" in asked and "A red ball rolls over a floor." in asked


def test_style_files_of_earlier_versions_are_read(tmp_path):
    file = tmp_path / "caption-style.yaml"
    config.save(STYLE, file)
    file.write_text(file.read_text() + "short_fraction: 0.3\n")
    assert CaptionStyle.load(file) == STYLE


@pytest.mark.parametrize("prompt", ["always-fails", "empty-answer", "megabyte", "cut-off", "word " * 10])
def test_prompts_stay_if_there_is_nothing_better(server, prompt):
    client = ModelConfig(endpoint=Endpoint(server.url, "m"), retries=Retries(2, 0.01)).client(ResponseCache(":memory:"))
    assert enhance_prompt(prompt, STYLE, client) == prompt
