"""Text encoder training: span corruption, paraphrase documents, the decoder, and a short run."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from cogvideox.errors import UserError
from cogvideox.pretrained.components import load_network
from cogvideox.pretrained.model_spec import read_json
from cogvideox.text.config import T5Config
from cogvideox.text.tokenizer import EOS_ID, PAD_ID, Tokenizer
from cogvideox.training.config import OptimSettings, RunSettings
from cogvideox.training.text_encoder.config import TextEncoderTraining
from cogvideox.training.text_encoder.data import build_tokenizer, corrupt, make_batch
from cogvideox.training.text_encoder.decoder import build_model
from cogvideox.training.text_encoder.trainer import train

SETTINGS = TextEncoderTraining(
    model=T5Config(vocab_size=448, d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4),
    text_length=40,
    num_decoder_layers=1,
    optim=OptimSettings(lr=1e-2, warmup_steps=5),
    run=RunSettings(num_steps=40, batch_size=16, device="cpu", log_interval=5, save_interval=0, validate_interval=40),
    num_held_out=16,
)

SENTINELS = range(999, 900, -1)


def restore_spans(source: list[int], target: list[int]) -> list[int]:
    """Put the removed spans back in place of the sentinels, which are the ids from 900 on."""
    spans: dict[int, list[int]] = {}
    for token in target:
        if token >= 900:
            spans[token] = current = []
        else:
            current.append(token)
    return [restored for token in source for restored in (spans[token] if token >= 900 else [token])]


def test_corrupted_text_and_removed_spans_contain_all_tokens():
    rng = np.random.default_rng(0)
    for length in range(1, 40):
        ids = list(range(10, 10 + length))
        for _ in range(20):
            source, target = corrupt(ids, 0.3, 2.0, SENTINELS, rng)
            assert restore_spans(source, target) == ids
            assert target[0] == 999 and [token for token in source if token >= 900] == [
                token for token in target if token >= 900
            ]


@pytest.mark.parametrize(("rate", "mean_span_length", "num_sentinels"), [(0.9, 2.0, 16), (1.0, 1.0, 16), (0.5, 1.0, 4)])
def test_there_are_no_more_spans_than_sentinels_and_gaps(rate, mean_span_length, num_sentinels):
    rng = np.random.default_rng(0)
    for length in range(1, 40):
        ids = list(range(10, 10 + length))
        source, target = corrupt(ids, rate, mean_span_length, SENTINELS[:num_sentinels], rng)
        assert restore_spans(source, target) == ids
        used = [token for token in source if token >= 900]
        assert used == list(SENTINELS[: len(used)]) and 1 <= len(used) <= num_sentinels


def test_spans_are_removed_everywhere_at_the_corruption_rate():
    rng, ids = np.random.default_rng(0), list(range(20))
    removed = np.zeros(20)
    for _ in range(2000):
        for token in corrupt(ids, 0.15, 1.5, SENTINELS, rng)[1]:
            if token < 900:
                removed[token] += 1 / 2000
    assert removed.mean() == pytest.approx(0.15) and removed.min() > 0.05 and removed.max() < 0.3


def test_documents_are_corrupted_captions_and_paraphrases():
    tokenizer = build_tokenizer(SETTINGS)
    first = len(tokenizer) - 1
    assert tokenizer.pieces[first][0] == "<extra_id_0>"
    batch = make_batch(replace(SETTINGS, paraphrase_fraction=1.0, paired_fraction=0.0), tokenizer, 0)
    for source, target in zip(batch.source.tolist(), batch.target.tolist()):
        content = [token for token in source if token != PAD_ID]
        assert content[-2:] == [first, EOS_ID] and target[0] == first
    paired = make_batch(replace(SETTINGS, paraphrase_fraction=0.0, paired_fraction=1.0), tokenizer, 0)
    sentinels = range(first, first - SETTINGS.num_sentinels, -1)
    num_paired = 0
    for source, target in zip(paired.source.tolist(), paired.target.tolist()):
        # The target alternates sentinels, in order, and the single token that each replaces in the source.
        removed = target[: target.index(EOS_ID)]
        assert [token for token in source if token in sentinels] == [token for token in removed if token in sentinels]
        num_paired += removed[::2] == [*sentinels[: len(removed) // 2]] and source.index(first) > 4
    assert num_paired > len(paired.source) / 2
    batch_0, batch_1 = (make_batch(SETTINGS, tokenizer, step) for step in (0, 1))
    assert torch.equal(batch_0.source, make_batch(SETTINGS, tokenizer, 0).source)
    assert not torch.equal(batch_0.source, batch_1.source)


def test_the_decoder_is_causal_and_ignores_padding():
    model = build_model(SETTINGS.model, 1, torch.Generator().manual_seed(0))
    source = torch.tensor([[5, 6, 7, EOS_ID, PAD_ID]]).repeat(2, 1)
    short = torch.tensor([[8, 9, EOS_ID]])
    padded = torch.tensor([[8, 9, EOS_ID, PAD_ID, PAD_ID]])
    torch.testing.assert_close(model(source[:1], short), model(source[:1], padded))


def test_a_run_learns_and_exports_an_encoder(tmp_path):
    assert train(SETTINGS, tmp_path / "run") == tmp_path / "run"
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < 0.7 * losses[0]
    assert {"validation/loss", "validation/word_order", "validation/synonyms"} <= set(lines[-1])
    config = T5Config.from_transformers(read_json(tmp_path / "run/text_encoder/config.json"))
    encoder = load_network(tmp_path / "run", config)
    tokenizer = Tokenizer.from_folder(tmp_path / "run/tokenizer")
    features = encoder(tokenizer.encode(["a red ball", "a ball red"], 40))
    assert features.shape == (2, 40, 32) and not torch.allclose(features[0], features[1])


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    def run(name: str, steps: int):
        settings = replace(SETTINGS, run=replace(SETTINGS.run, num_steps=steps, validate_interval=0))
        settings = replace(settings, optim=replace(settings.optim, schedule="constant"))
        train(settings, tmp_path / name, resume=True)
        config = T5Config.from_transformers(read_json(tmp_path / name / "text_encoder/config.json"))
        return load_network(tmp_path / name, config).state_dict()

    run("resumed", 3)
    resumed, uninterrupted = run("resumed", 6), run("whole", 6)
    assert all(torch.equal(resumed[name], uninterrupted[name]) for name in uninterrupted)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_length": 10}, "text_length=10 must be at least 40"),
        ({"corruption_rate": 1.5}, "corruption_rate=1.5 must be in"),
        ({"num_sentinels": 1}, "num_sentinels=1 must be at least 2"),
        ({"caption_styles": ()}, "caption_styles is empty"),
    ],
)
def test_invalid_settings_are_rejected(changes, message):
    with pytest.raises(UserError, match=message):
        replace(SETTINGS, **changes)
