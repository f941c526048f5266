"""Fine-tuning of summarizers on captioned folders: pairs, loss, LoRA, exact resume, and use by the back-end."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from cogvideox.curation.captions.back_ends.prompts import SUMMARY
from cogvideox.curation.captions.captioned_folder import is_validation, summary_pairs
from cogvideox.curation.captions.config import CaptionPipelineConfig, StageConfig
from cogvideox.curation.captions.run import caption_folder
from cogvideox.curation.captions.video_captioner.config import DecoderConfig
from cogvideox.errors import UserError
from cogvideox.llm.chat import Sampling
from cogvideox.llm.local import Transformers
from cogvideox.llm.models import ModelConfig
from cogvideox.toybox.render.renderer import render_scene
from cogvideox.toybox.scenes.sampler import sample_scene
from cogvideox.training.captioner.config import LanguageLora
from cogvideox.training.captioner.language_model import open_language_model
from cogvideox.training.captioner.recipes import toybox_summarizer
from cogvideox.training.captioner.resource_estimate import estimate_captioning
from cogvideox.training.captioner.summarizer_data import PairData, chat_prompt, split_pairs
from cogvideox.training.captioner.summarizer_trainer import summarize, summary_loss, train
from cogvideox.video import io

pytest.importorskip("transformers")
pytest.importorskip("peft")
pytest.importorskip("cv2")

TINY = DecoderConfig(width=16, num_layers=1, num_heads=2, vocab_size=320)
TOYBOX = CaptionPipelineConfig(
    short=StageConfig("toybox"), frames=StageConfig("toybox"), summary=StageConfig("rules"), interval=0.5, measure=()
)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("clips"), np.random.default_rng(4)
    for number in range(8):
        frames = render_scene(sample_scene(rng, "core"), num_frames=5, height=64, width=64)
        io.write(folder / f"{number}.mp4", np.asarray(frames), 8.0)
    return folder


@pytest.fixture(scope="module")
def settings(clips, tmp_path_factory):
    output = tmp_path_factory.mktemp("captions")
    caption_folder(clips, output, TOYBOX)
    base = toybox_summarizer()
    run = replace(base.run, num_steps=4, batch_size=2, device="cpu", log_interval=1, save_interval=2)
    return replace(
        base,
        model=TINY,
        data=(str(output),),
        run=replace(run, validate_interval=4),
        validation_fraction=0.3,
        num_generated=1,
    )


@pytest.fixture(scope="module")
def trained(settings, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    assert train(settings, out) == out / "summarizer"
    return out


def test_pairs_have_the_prompt_of_the_back_end_and_the_accepted_summary(settings):
    pairs = summary_pairs(settings.data)
    assert len(pairs) == 8
    for pair in pairs:
        assert pair.prompt.startswith(SUMMARY.text.replace("{words}", "100")) and pair.short in pair.prompt
        assert f"0s: {pair.summary.split('.')[0].split(' moves')[0][:12]}" in pair.prompt
    training, validation = split_pairs(settings)
    assert {pair.clip for pair in training}.isdisjoint(pair.clip for pair in validation)
    assert all(is_validation(pair.clip, 0.3) for pair in validation)


def test_loss_counts_the_tokens_of_the_summary_only(settings):
    pairs = summary_pairs(settings.data)[:3]
    network, tokenizer = open_language_model(TINY, None, [pair.prompt + pair.summary for pair in pairs], 0)
    data = PairData(settings, tokenizer, pairs)
    losses = summary_loss(network, data.batch(range(3)))
    for pair, loss in zip(pairs, losses):
        prompt = tokenizer(chat_prompt(tokenizer, pair.prompt), add_special_tokens=False)["input_ids"]
        answer = [*tokenizer(pair.summary, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        logits = network(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        expected = torch.nn.functional.cross_entropy(logits, torch.tensor(answer))
        torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)


def test_batched_summaries_equal_single_ones(settings):
    pairs = summary_pairs(settings.data)[:3]
    prompts = [pairs[0].prompt, pairs[1].prompt[:80], pairs[2].short]
    network, tokenizer = open_language_model(TINY, None, prompts, 0)
    single = [summarize(network, tokenizer, [prompt], 1)[0] for prompt in prompts]
    assert summarize(network, tokenizer, prompts, 3) == single


def test_run_has_metrics_and_checkpoints_of_lora_only(trained):
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert {"loss", "lr", "grad_norm", "tokens_per_second"} <= lines[0].keys()
    assert {"validation/loss", "validation/usable", "validation/rouge_l", "validation/facts"} <= lines[-1].keys()
    state = (trained / "checkpoints/step-00000004/state.json").read_text()
    assert "lora_A" in state and "embed_tokens" not in state


@pytest.mark.parametrize("lora", [True, False])
def test_resumed_run_equals_uninterrupted_run(lora, trained, settings, tmp_path):
    settings = settings if lora else replace(settings, lora=None)
    straight = trained if lora else tmp_path / "straight"
    if not lora:
        train(settings, straight)
    assert train(settings, tmp_path / "run", max_seconds=0.0) is None
    assert train(settings, tmp_path / "run", resume=True) == tmp_path / "run/summarizer"
    weights = "summarizer/model.safetensors"
    assert (tmp_path / "run" / weights).read_bytes() == (straight / weights).read_bytes()


def test_the_back_end_model_uses_the_trained_summarizer(trained, clips, tmp_path):
    model = ModelConfig(transformers=Transformers(trained / "summarizer", batch_size=2))
    config = replace(
        TOYBOX,
        models={"student": model},
        summary=StageConfig("model", "student", decoding=Sampling(max_tokens=4)),
        repairs=0,
    )
    result = caption_folder(clips, tmp_path / "out", config, limit=4)
    assert result.usage.calls == 4 and result.usage.completion_tokens <= 16 and result.usage.errors == 0


def test_data_that_cannot_be_used_is_an_error(settings, tmp_path):
    with pytest.raises(UserError, match="not an output folder of"):
        train(replace(settings, data=(str(tmp_path),)), tmp_path / "run")
    with pytest.raises(UserError, match="caption more clips"):
        split_pairs(replace(settings, validation_fraction=1e-9))
    with pytest.raises(UserError, match="every pair has more than"):
        train(replace(settings, max_tokens=16), tmp_path / "run")
    with pytest.raises(UserError, match="does not exist"):
        train(replace(settings, model=DecoderConfig(path=str(tmp_path / "none"))), tmp_path / "run")


@pytest.mark.parametrize("lora", [None, LanguageLora(rank=2)])
def test_estimate_has_the_numbers_of_parameters(lora, settings):
    texts = [pair.prompt + pair.summary for pair in summary_pairs(settings.data)]
    network, tokenizer = open_language_model(TINY, lora, texts, 0)
    config = replace(TINY, vocab_size=max(300, len(tokenizer)))
    unused = (config.vocab_size - len(tokenizer)) * TINY.width
    resources = estimate_captioning(replace(settings, model=config, lora=lora))
    assert resources is not None
    added = 0 if lora is None else resources.trained
    assert resources.parameters + added - unused == sum(weight.numel() for weight in network.parameters())
    assert resources.trained - (0 if lora else unused) == sum(
        w.numel() for w in network.parameters() if w.requires_grad
    )
    assert estimate_captioning(replace(settings, model=DecoderConfig(path="model"))) is None
