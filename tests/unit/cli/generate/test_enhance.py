"""`generate --enhance`: prompts are rewritten before the video is generated, and the sidecar records them."""

import json

import pytest

from cogvideox import config
from cogvideox.cli.main import main
from cogvideox.generation.enhance import CaptionStyle

REWRITTEN = "a large red ball moves right on a white background"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    pytest.importorskip("uvicorn")
    from tests.chat_server import ChatServer

    server = ChatServer(tmp_path_factory.mktemp("server"))
    yield server
    server.kill()


@pytest.fixture
def options(server, tmp_path):
    style, model = tmp_path / "caption-style.yaml", tmp_path / "model.yaml"
    config.save(CaptionStyle((12, 14, 16)), style)
    model.write_text(f"endpoint: {{url: '{server.url}', model: m}}\n")
    return ["--enhance", str(style), "--enhance-model", str(model)]


def test_the_rewritten_prompt_is_used_and_recorded(options, tmp_path, capsys):
    video = tmp_path / "x.mp4"
    arguments = ["generate", f"say: {REWRITTEN}", "--num-inference-steps", "1", "-o", str(video)]
    assert main([*arguments, *options]) == 0
    assert f"prompt: {REWRITTEN}" in capsys.readouterr().err
    assert json.loads(video.with_suffix(".json").read_text())["prompt"] == REWRITTEN


def test_lines_of_a_prompt_file_are_rewritten_once(options, server, tmp_path):
    prompts, out = tmp_path / "prompts.txt", tmp_path / "out"
    prompts.write_text(f"say: {REWRITTEN}\n")
    arguments = ["generate", "--prompts", str(prompts), "--num-inference-steps", "1", "-o", str(out), *options]
    assert main(arguments) == 0
    before = len(server.requests())
    assert main(arguments) == 0  # all videos exist
    assert len(server.requests()) == before
    (sidecar,) = (json.loads(file.read_text()) for file in out.glob("*.json"))
    assert sidecar["prompt"] == REWRITTEN


def test_enhance_needs_a_model(options, capsys):
    assert main(["generate", "a red ball", *options[:2]]) == 2
    assert "--enhance needs --enhance-model" in capsys.readouterr().err
