import pytest

from cogvideox.llm.chat import ChatRequest, Message


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    pytest.importorskip("httpx")
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    from tests.chat_server import ChatServer

    server = ChatServer(tmp_path_factory.mktemp("server"))
    yield server
    server.kill()


def text_request(text: str, **fields) -> ChatRequest:
    return ChatRequest((Message("user", (text,)),), prompt_id="test", **fields)
