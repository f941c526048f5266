"""Tiny models with random weights, run by transformers. Models with real weights are in tests/real."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from cogvideox.errors import UserError
from cogvideox.llm.cache import ResponseCache
from cogvideox.llm.chat import Answer, ChatRequest, Frame, Message, Sampling
from cogvideox.llm.local import LlamaCpp, Transformers, TransformersModel, file_digest, folder_digest
from cogvideox.llm.models import ModelConfig
from cogvideox.video.jpeg import encode_jpeg
from tests.unit.llm.conftest import text_request

TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>"
    "{% if message.content is string %}{{ message.content }}"
    "{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}"
    "{% endfor %}<|assistant|>"
)


def make_tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, special_tokens=["</s>", "<image>"])
    tokenizer.train_from_iterator(["a red ball rolls to the left"], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="</s>")
    fast.chat_template = TEMPLATE
    return fast


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory):
    pytest.importorskip("transformers")
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    folder, tokenizer = tmp_path_factory.mktemp("text"), make_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def vision_folder(tmp_path_factory):
    pytest.importorskip("transformers")
    import torch
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    torch.manual_seed(0)
    folder, tokenizer = tmp_path_factory.mktemp("vision"), make_tokenizer()
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(image_size=32, patch_size=16, projection_dim=32, **small),
        text_config=LlamaConfig(vocab_size=len(tokenizer), **small),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    pictures = CLIPImageProcessorPil(size=size, crop_size=size, do_center_crop=False)
    LlavaProcessor(
        pictures,
        tokenizer,
        patch_size=16,
        vision_feature_select_strategy="default",
        chat_template=TEMPLATE,
        num_additional_image_tokens=1,
    ).save_pretrained(folder)
    return folder


def jpeg(color: int) -> bytes:
    return encode_jpeg(np.full((32, 32, 3), color, np.uint8))


@pytest.mark.slow
def test_text_model_by_path(text_folder):
    client = ModelConfig.from_path(text_folder).client(ResponseCache(":memory:"))
    answer = client.ask(text_request("a red ball", sampling=Sampling(max_tokens=5)))
    assert answer.completion_tokens == 5 and answer.finish_reason == "length" and answer.prompt_tokens > 5
    assert client.ask(text_request("a red ball", sampling=Sampling(max_tokens=5))).cached
    sampled = [
        client.model.complete(text_request("a", sampling=Sampling(1.0, 8, seed=seed))).text for seed in (1, 1, 2)
    ]
    assert sampled[0] == sampled[1] != sampled[2]
    with pytest.raises(UserError, match="reads no images"):
        client.ask(ChatRequest((Message("user", (Frame(jpeg(0)),)),), "p"))


@pytest.mark.slow
def test_vision_model_by_path_sees_the_frames(vision_folder):
    model = Transformers(vision_folder).open()

    def request(*colors: int) -> ChatRequest:
        frames = [Frame(jpeg(color), float(time)) for time, color in enumerate(colors)]
        return ChatRequest((Message("user", (*frames, "Describe.")),), "p", sampling=Sampling(max_tokens=6))

    dark, bright, pair = (model.complete(request(*colors)) for colors in ((0,), (255,), (0, 255)))
    assert dark.completion_tokens == 6 and dark.text != bright.text
    assert pair.prompt_tokens >= dark.prompt_tokens + 4  # a frame is four patches


@pytest.mark.slow
def test_batched_requests_have_the_answers_of_single_ones(text_folder, vision_folder):
    def show(count: int) -> ChatRequest:
        frames = [Frame(jpeg(60 * index), float(index)) for index in range(count)]
        return ChatRequest((Message("user", (*frames, "Describe.")),), "p", sampling=Sampling(max_tokens=6))

    texts = [text_request("a red ball " * count, sampling=Sampling(max_tokens=4 + count % 2)) for count in range(1, 6)]
    for folder, requests in ((text_folder, texts), (vision_folder, [show(count) for count in (1, 3, 2)])):
        single, batched = Transformers(folder).open(), Transformers(folder, batch_size=4).open()
        assert batched.concurrency == 8
        with ThreadPoolExecutor(len(requests)) as pool:
            answers = list(pool.map(batched.complete, requests, timeout=60))
        for request, answer in zip(requests, answers):
            assert answer == single.complete(request)


def test_requests_with_and_without_images_are_separate_batches(monkeypatch):
    model, batches = object.__new__(TransformersModel), []
    model._lock = threading.Lock()

    def generate(requests):
        batches.append(len(requests))
        return [Answer(request.prompt_id) for request in requests]

    monkeypatch.setattr(model, "_generate", generate)
    frame = Frame(b"")
    messages = [Message("user", parts) for parts in (("a",), (frame, "b"), ("c",), (frame, frame, "d"))]
    requests = [ChatRequest((message,), str(index)) for index, message in enumerate(messages)]
    assert [answer.text for answer in model._complete_batch(requests)] == list("0123")
    assert batches == [2, 2]


def test_digests_change_with_names_and_content(tmp_path):
    (tmp_path / "a").write_bytes(bytes(5_000_000))
    first, folder = file_digest(tmp_path / "a"), folder_digest(tmp_path)
    (tmp_path / "a").write_bytes(bytes(4_999_999) + b"1")
    assert file_digest(tmp_path / "a") != first and folder_digest(tmp_path) != folder


def test_invalid_model_files(tmp_path):
    pytest.importorskip("xllamacpp")
    (tmp_path / "m.gguf").write_bytes(b"text")
    for path, reason in ((tmp_path / "m.gguf", "not a GGUF file"), (tmp_path / "n.gguf", "no such file")):
        with pytest.raises(UserError, match=reason):
            LlamaCpp(path).open()
    (tmp_path / "m.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(UserError, match=r"llama\.cpp cannot load"):
        LlamaCpp(tmp_path / "m.gguf").open()
    assert ModelConfig.from_path("a.gguf").llama_cpp and ModelConfig.from_path("folder").transformers


@pytest.mark.slow
def test_invalid_model_folders(tmp_path):
    pytest.importorskip("transformers")
    for folder, reason in ((tmp_path, "transformers cannot load"), (tmp_path / "none", "does not exist")):
        with pytest.raises(UserError, match=reason):
            Transformers(folder).open()
