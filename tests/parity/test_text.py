"""The T5 encoder and its tokenizer equal those of transformers, also in a diffusers pipeline."""

import base64
import json
import random
from pathlib import Path

import pytest
import torch

from cogvideox.state_dict.key_rules import to_external, to_internal
from cogvideox.state_dict.safetensors_io import save_state
from cogvideox.text import checkpoint_keys as text_keys
from cogvideox.text import init_weights as text_init
from cogvideox.text.config import T5Config
from cogvideox.text.encoder import T5Encoder
from cogvideox.text.tokenizer import Tokenizer, train_toy_tokenizer

transformers = pytest.importorskip("transformers")

CONFIGS = {
    "plain": T5Config(vocab_size=99, d_model=32, d_kv=8, d_ff=64, num_layers=3, num_heads=4),
    "heads wider than the model": T5Config(vocab_size=50, d_model=24, d_kv=16, d_ff=40, num_layers=2, num_heads=5),
    "one layer, one head": T5Config(vocab_size=10, d_model=8, d_kv=8, d_ff=8, num_layers=1, num_heads=1),
    "other buckets": T5Config(
        vocab_size=64,
        d_model=16,
        d_kv=4,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        relative_attention_num_buckets=16,
        relative_attention_max_distance=40,
        layer_norm_epsilon=1e-5,
    ),
    "deep": T5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=80, num_layers=8, num_heads=4),
}
LENGTHS = (1, 16, 224, 226, 300)


def random_reference(config: T5Config):
    """Return transformers' encoder with random values for all parameters, including norms and position bias."""
    model = transformers.T5EncoderModel(transformers.T5Config(**config.to_transformers())).eval()
    for name, parameter in model.named_parameters():
        fan_in = parameter.shape[1] if parameter.ndim == 2 and ".layer." in name and "bias" not in name else 1
        torch.nn.init.normal_(parameter, std=fan_in**-0.5)
    return model


def load_model(reference, config: T5Config) -> T5Encoder:
    with torch.device("meta"):
        model = T5Encoder(config)
    state = text_keys.merge_shared_embedding(reference.state_dict())
    model.load_state_dict(to_internal(state, text_keys.TRANSFORMERS_KEYMAP), assign=True)
    return model


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return ((actual - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_embeddings_are_equal(name):
    config = CONFIGS[name]
    reference = random_reference(config)
    model = load_model(reference, config)
    for length in LENGTHS:
        ids = torch.randint(config.vocab_size, (2, length))
        ids[1, length // 2 :] = 0  # padding, which is not masked
        error = relative_error(model(ids), reference(ids).last_hidden_state)
        assert error <= 1e-5, f"{length} tokens: {error:.1e}"


@torch.no_grad()
def test_bfloat16_error_is_at_most_that_of_transformers():
    config = CONFIGS["deep"]
    reference = random_reference(config)
    model = load_model(reference, config)
    ids = torch.randint(config.vocab_size, (4, 226))
    exact = model(ids)
    actual = model.bfloat16()(ids)
    expected = reference.bfloat16()(ids).last_hidden_state
    assert actual.dtype == torch.bfloat16
    assert (actual - exact).square().mean() <= (expected - exact).square().mean()


def test_gradients_are_equal():
    config = CONFIGS["plain"]
    reference = random_reference(config)
    model = load_model(reference, config)
    for parameter in model.parameters():
        parameter.requires_grad_()
    ids, direction = torch.randint(config.vocab_size, (2, 20)), torch.randn(2, 20, config.d_model)
    (model(ids) * direction).sum().backward()
    (reference(ids).last_hidden_state * direction).sum().backward()
    expected = to_internal({name: p.grad for name, p in reference.named_parameters()}, text_keys.TRANSFORMERS_KEYMAP)
    for name, parameter in model.named_parameters():
        assert relative_error(parameter.grad, expected[name]) <= 1e-4, name


# ---- tokenizer ----

CORPUS = [
    "The quick brown fox jumps over the lazy dog.",
    "A panda, dressed in a small red jacket and a tiny hat, sits on a wooden stool in a serene bamboo forest.",
    "Wir gehen über die Straße; déjà vu: 3.14 is (almost) π!",
    "Two astronauts -- in 'white' suits -- are walking & talking at 10% speed?",
]

PROMPTS = [
    "",
    " ",
    "a panda",
    "A panda sits in a serene bamboo forest, dressed in a red jacket.",
    "  leading,   double  and trailing spaces   ",
    "tabs\tand\nnewlines\r\n\u00a0and\u3000others",
    "UPPER Case MiXeD",
    "Ünïcödé déjà vu e\u0301 ﬁne １２３ ½ ß İ Straße",
    "“curly” ‘quotes’ — dashes… don’t",
    "漢字 and Привет, unknown 漢字漢字 الحب",
    "emoji 👍🏽 👨‍👩‍👧 🇩🇪 x\u200dy \ufeff",
    "</s> inside <pad> of <unk> text",
    "nul \0 and bell \a",
    "redder redball ball.red,blue;green/yellow",
    "▁ typed ▁▁by▁hand",
    "supercalifragilisticexpialidocious" * 3,
]


def random_prompts(count: int) -> list[str]:
    """Return random strings with spaces, accents and characters of many alphabets."""
    rng = random.Random(0)
    alphabet = "abc ABC  \t\n.,;-'\"!?éÉß½ﬁ…漢字жЖ\u0301\u200d\u00a0👍1２"
    return ["".join(rng.choices(alphabet, k=rng.randrange(1, 40))) for _ in range(count)]


@pytest.fixture(scope="module")
def t5_like(tmp_path_factory) -> Path:
    """A folder with only `spiece.model`, trained with T5's settings."""
    sentencepiece = pytest.importorskip("sentencepiece")
    folder = tmp_path_factory.mktemp("t5")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 4),
        model_prefix=str(folder / "spiece"),
        vocab_size=120,
        hard_vocab_limit=False,
        character_coverage=1.0,
        normalization_rule_name="nmt_nfkc",
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return folder


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    train_toy_tokenizer([*CORPUS, "a red ball moves left on a blue floor"]).save(folder)
    return folder


def assert_same_ids(tokenizer: Tokenizer, reference) -> None:
    for prompt in PROMPTS + random_prompts(200):
        expected = reference(prompt, padding="max_length", max_length=226, return_tensors="pt").input_ids
        assert torch.equal(tokenizer.encode(prompt, 226), expected), repr(prompt)


def test_ids_from_spiece_model_are_equal(t5_like):
    assert_same_ids(Tokenizer.from_folder(t5_like), transformers.T5Tokenizer.from_pretrained(t5_like))


def test_ids_equal_sentencepiece(t5_like):
    """For prompts without special tokens, which SentencePiece does not support."""
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_file=str(t5_like / "spiece.model"))
    tokenizer = Tokenizer.from_folder(t5_like)
    for prompt in PROMPTS:
        if "<" not in prompt and "▁" not in prompt:  # no special tokens or space symbols
            expected = [*processor.encode(prompt), 1]
            assert tokenizer.encode(prompt, 226)[0, : len(expected)].tolist() == expected, repr(prompt)


def test_number_of_sentinels_is_read_from_the_settings(t5_like, tmp_path):
    (tmp_path / "spiece.model").write_bytes((t5_like / "spiece.model").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "T5Tokenizer", "extra_ids": 7}')
    tokenizer, reference = Tokenizer.from_folder(tmp_path), transformers.T5Tokenizer.from_pretrained(tmp_path)
    assert len(tokenizer) == len(reference)
    prompt = "a <extra_id_0> panda <extra_id_6>"
    assert tokenizer.encode(prompt, 12).tolist() == [reference(prompt, padding="max_length", max_length=12).input_ids]


def test_tokenizer_json_of_transformers_4_is_read(t5_like, tmp_path):
    """Its files describe the handling of spaces in another way."""
    tokenizer = Tokenizer.from_folder(t5_like)
    tokenizer.save(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["normalizer"] = {
        "type": "Sequence",
        "normalizers": [
            {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(tokenizer.charsmap).decode()},
            {"type": "Strip", "strip_left": False, "strip_right": True},
            {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"},
        ],
    }
    content["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert_same_ids(Tokenizer.from_folder(tmp_path), transformers.T5Tokenizer.from_pretrained(tmp_path))


@pytest.mark.parametrize("kind", ["t5_like", "toy"])
@pytest.mark.parametrize("file", ["tokenizer.json", "spiece.model"])
def test_saved_folder_is_read_by_all_libraries(kind, file, request, tmp_path):
    tokenizer = Tokenizer.from_folder(request.getfixturevalue(kind))
    tokenizer.save(tmp_path)
    (tmp_path / {"tokenizer.json": "spiece.model", "spiece.model": "tokenizer.json"}[file]).unlink()
    loaded = Tokenizer.from_folder(tmp_path)
    assert (loaded.pieces, loaded.charsmap) == (tokenizer.pieces, tokenizer.charsmap)
    reference = transformers.T5Tokenizer.from_pretrained(tmp_path)
    assert len(reference) == len(tokenizer)
    assert_same_ids(tokenizer, reference)
    assert_same_ids(tokenizer, transformers.AutoTokenizer.from_pretrained(tmp_path))


@pytest.mark.parametrize("kind", ["t5_like", "toy"])
def test_folder_saved_by_transformers_is_read(kind, request, tmp_path):
    reference = transformers.T5Tokenizer.from_pretrained(request.getfixturevalue(kind))
    reference.save_pretrained(tmp_path)
    assert_same_ids(Tokenizer.from_folder(tmp_path), reference)


def test_tokenizer_json_is_self_contained(toy):
    """Libraries that read only this file (transformers 4, tokenizers) return the same ids."""
    reference = transformers.PreTrainedTokenizerFast(tokenizer_file=str(toy / "tokenizer.json"), pad_token="<pad>")
    assert_same_ids(Tokenizer.from_folder(toy), reference)


def test_saved_spiece_model_is_read_by_sentencepiece(toy):
    sentencepiece = pytest.importorskip("sentencepiece")
    processor = sentencepiece.SentencePieceProcessor(model_file=str(toy / "spiece.model"))
    assert (processor.pad_id(), processor.eos_id(), processor.unk_id(), processor.bos_id()) == (0, 1, 2, -1)
    tokenizer = Tokenizer.from_folder(toy)
    for prompt in PROMPTS:
        if "<" not in prompt:
            expected = [*processor.encode(prompt), 1]
            assert tokenizer.encode(prompt, 226)[0, : len(expected)].tolist() == expected, repr(prompt)


# ---- encoder and tokenizer in a diffusers pipeline ----


@torch.no_grad()
def test_prompt_embeddings_equal_a_diffusers_pipeline(toy, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    tokenizer = Tokenizer.from_folder(toy)
    config = T5Config(vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    encoder = T5Encoder(config)
    text_init.init_weights(encoder, torch.Generator().manual_seed(0))

    tokenizer.save(tmp_path / "tokenizer")
    (tmp_path / "text_encoder").mkdir()
    (tmp_path / "text_encoder" / "config.json").write_text(json.dumps(config.to_transformers()))
    state = to_external(encoder.state_dict(), text_keys.TRANSFORMERS_KEYMAP)
    save_state(state, tmp_path / "text_encoder" / "model.safetensors")
    index = {
        "_class_name": "CogVideoXPipeline",
        "tokenizer": ["transformers", "T5Tokenizer"],
        "text_encoder": ["transformers", "T5EncoderModel"],
    }
    (tmp_path / "model_index.json").write_text(json.dumps(index))

    pipeline = diffusers.CogVideoXPipeline.from_pretrained(tmp_path, vae=None, transformer=None, scheduler=None)
    prompts = ["A red ball, moving left!", "", "zwölf Boxkämpfer 漢字"]
    expected, _ = pipeline.encode_prompt(prompts, do_classifier_free_guidance=False, max_sequence_length=40)
    assert relative_error(encoder(tokenizer.encode(prompts, 40)), expected) <= 1e-5
