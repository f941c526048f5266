"""Training chain of the shipped model: a base model, then stages on rendered clips, with a new caption per sample."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from cogvideox.dataset.config import ClipFormat, ToyboxClips, ToyboxSource
from cogvideox.dataset.latents.toybox_latents import LatentTable, clip_scene, encode_toybox, render_clips
from cogvideox.dataset.latents.toybox_store import ToyboxStore
from cogvideox.errors import UserError
from cogvideox.pretrained.components import load_network, load_vae, save_network
from cogvideox.pretrained.model_folder import load_tokenizer
from cogvideox.pretrained.model_spec import read_spec
from cogvideox.text.config import T5Config
from cogvideox.text.encoder import T5Encoder
from cogvideox.text.init_weights import init_weights
from cogvideox.text.tokenizer import train_toy_tokenizer
from cogvideox.toybox.captions.caption import caption_words, parse_prompt, sample_prompts
from cogvideox.toybox.scenes.grammar import TEXT_LENGTHS
from cogvideox.training.config import RunSettings
from cogvideox.training.diffusion.config import DiffusionTraining, SampleSettings
from cogvideox.training.diffusion.latent_stores import open_stores
from cogvideox.training.diffusion.trainer import build_transformer, train
from cogvideox.training.run import training_run
from cogvideox.training.toybox.base_model import write_base_model
from cogvideox.training.toybox.recipes import SCHEDULE
from cogvideox.transformer.config import TransformerConfig
from tests import tiny_runs

CLIPS = ToyboxClips(8, grammar="pair", num_frames=5, height=16, width=16)
TEXT_LENGTH = TEXT_LENGTHS["pair"]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> str:
    """A base model of minimal size."""
    folder = tmp_path_factory.mktemp("base")
    config = T5Config(vocab_size=448, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    encoder = T5Encoder(config)
    init_weights(encoder, torch.Generator().manual_seed(0))
    save_network(encoder.state_dict(), config, folder / "text")
    train_toy_tokenizer(caption_words("pair"), 448, num_sentinels=16).save(folder / "text/tokenizer")
    transformer = TransformerConfig(
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=1,
        in_channels=4,
        out_channels=4,
        time_embed_dim=16,
        text_embed_dim=16,
        max_text_seq_length=TEXT_LENGTH,
        sample_height=2,
        sample_width=2,
        sample_frames=5,
    )
    written = write_base_model(
        folder / "model",
        vae=tiny_runs.write_vae(folder / "vae"),
        text_encoder=folder / "text",
        transformer=transformer,
        schedule=SCHEDULE,
        examples=("a red ball",),
    )
    return str(written)


def stage(base: str) -> DiffusionTraining:
    return DiffusionTraining(
        model=base,
        row_tokens=100,
        optim=replace(tiny_runs.OPTIM, name="muon"),
        run=RunSettings(num_steps=6, batch_size=2, device="cpu", log_interval=1, save_interval=2, validate_interval=3),
        target=ClipFormat(fps=8.0, num_frames=5, height=16, width=16),
        toybox=(ToyboxSource(replace(CLIPS, first_frames=True), 0.5), ToyboxSource(CLIPS)),
        toybox_validation=replace(CLIPS, num_clips=2, first_seed=1000),
        samples=SampleSettings(("a red ball moves left", "a blue cube"), interval=0, num_inference_steps=2),
    )


def test_the_base_model_has_the_sizes_of_its_networks(base):
    spec = read_spec(base)
    assert (spec.settings.num_frames, spec.settings.height, spec.settings.width) == (5, 16, 16)
    assert spec.settings.text_length == TEXT_LENGTH and spec.schedule == SCHEDULE
    assert spec.vae.scaling_factor == tiny_runs.VAE.scaling_factor


def test_a_stage_starts_from_a_whitened_text_projection(base):
    transformer, _ = build_transformer(stage(base), read_spec(base))
    encoder, tokenizer = load_network(base, read_spec(base).text_encoder), load_tokenizer(read_spec(base))
    captions = [caption for caption, _ in sample_prompts(300, split="training", grammar="pair")]
    with torch.no_grad():
        out = transformer.text_in(encoder(tokenizer.encode(captions, TEXT_LENGTH))).flatten(0, 1)
    variances = torch.linalg.eigvalsh(torch.cov(out.T))[-16:]
    assert out.mean(0).abs().max() < 0.3 and 0.3 < variances.median() < 3


def test_first_frames_equal_those_of_the_clips():
    clips = replace(CLIPS, height=32, width=32)
    images = render_clips(replace(clips, first_frames=True), range(8))
    assert torch.equal(images, render_clips(clips, range(8))[:, :, :1])


def test_clips_get_a_new_caption_each_time_they_are_sampled(base, tmp_path):
    seen = []

    def embed(caption: str) -> torch.Tensor:
        seen.append(caption)
        return torch.zeros(TEXT_LENGTH, 16, dtype=torch.bfloat16)

    table = encode_toybox(load_vae(base), CLIPS, tmp_path)
    store = ToyboxStore(ToyboxSource(CLIPS), table, embed)
    samples = [store.sample(3, np.random.default_rng(seed)) for seed in range(20)]
    assert len(set(seen)) > 15
    assert all(torch.equal(sample.mean, table.mean[3]) for sample in samples)
    assert len(store) == 8 and store.shapes.tolist() == [[2, 2, 2]] * 8
    assert store.columns["num_frames"].tolist() == [5] * 8
    seen.clear()
    store[3], store[3]
    assert seen[0] == seen[1] and parse_prompt(seen[0], "full").items() <= clip_scene(CLIPS, 3).facts.items()


def test_a_source_can_be_restricted_to_clips_with_two_toys(base, tmp_path):
    table = encode_toybox(load_vae(base), CLIPS, tmp_path)
    counts = [len(clip_scene(CLIPS, index).toys) for index in range(8)]
    pairs = [index for index, count in enumerate(counts) if count == 2]
    assert 0 < len(pairs) < 8
    store = ToyboxStore(ToyboxSource(CLIPS, num_toys=2), table, lambda _: torch.zeros(1, 16, dtype=torch.bfloat16))
    assert len(store) == len(store.shapes) == len(store.columns["num_frames"]) == len(pairs)
    assert all(torch.equal(store[k].mean, table.mean[index]) for k, index in enumerate(pairs))
    first_alone = next(index for index in range(8) if counts[index] == 1)
    lone = ToyboxClips(1, first_seed=CLIPS.first_seed + first_alone, grammar="pair", num_frames=5, height=16, width=16)
    with pytest.raises(UserError, match="none of the 1 clips of"):
        ToyboxStore(ToyboxSource(lone, num_toys=2), LatentTable(table.mean[:1], table.logvar[:1]), store.embed)


def test_all_clips_and_those_with_two_toys_are_two_sources(base, tmp_path):
    sources = ToyboxSource(CLIPS), ToyboxSource(CLIPS, num_toys=2)
    settings = replace(stage(base), toybox=sources, toybox_validation=None).resolved(read_spec(base).settings)
    with training_run(settings, tmp_path / "run") as run:
        data = open_stores(settings, read_spec(base), run).data
    assert [source.store for source in settings.mixture().sources] == list(data)
    tables = [store.table for store in data.values() if isinstance(store, ToyboxStore)]
    assert len(tables) == 2 and tables[0] is tables[1]
    assert [len(store) for store in data.values()] == [8, sum(len(clip_scene(CLIPS, i).toys) == 2 for i in range(8))]


def test_captions_of_single_frames_do_not_mention_motion():
    seen = []

    def embed(caption: str) -> torch.Tensor:
        seen.append(parse_prompt(caption))
        return torch.zeros(TEXT_LENGTH, 16, dtype=torch.bfloat16)

    images = ToyboxClips(40, num_frames=1)
    latents = torch.zeros(40, 4, 1, 2, 2, dtype=torch.bfloat16)
    store = ToyboxStore(ToyboxSource(images), LatentTable(latents, latents), embed)
    for index in range(40):
        store[index], store.sample(index, np.random.default_rng(index))
    assert not any("motion" in facts for facts in seen) and any("color" in facts for facts in seen)


def test_rendered_clips_are_encoded_with_the_norm_statistics_of_the_run(base, tmp_path):
    spec, clips = read_spec(base), replace(CLIPS, num_clips=2, num_frames=17)
    settings = replace(stage(base), toybox=(ToyboxSource(clips),), toybox_validation=None, norm_statistics="clip")
    settings = settings.resolved(spec.settings)
    with training_run(settings, tmp_path / "run") as run:
        (store,) = open_stores(settings, spec, run).data.values()
    expected = load_vae(base).encode(render_clips(clips, [1]), norm_statistics="clip").mean[0]
    torch.testing.assert_close(store[1].mean.float(), expected, rtol=2**-7, atol=1e-6)
    assert not torch.equal(store[1].mean, encode_toybox(load_vae(base), clips, tmp_path).mean[1])


def test_a_stage_scores_samples_and_the_next_stage_starts_from_it(base, tmp_path):
    first = train(stage(base), tmp_path / "low")
    assert first is not None
    lines = [json.loads(line) for line in (tmp_path / "low/metrics.jsonl").read_text().splitlines()]
    assert sum("validation/loss" in line for line in lines) == 2
    assert any("judged/color" in line for line in lines) and (tmp_path / "low/samples/step-00000006.png").is_file()
    settings = read_spec(first).settings
    assert settings.trained.num_frames == (1, 5) and settings.provenance["trained_from"] == read_spec(base).name
    second = train(replace(stage(base), model=str(first)), tmp_path / "high")
    assert second is not None and read_spec(second).settings.provenance["trained_from"] == str(first)


def test_a_resumed_stage_equals_an_uninterrupted_one(base, tmp_path):
    def run(name: str, steps: int) -> bytes:
        settings = stage(base)
        optim = replace(settings.optim, schedule="constant")
        run = replace(settings.run, num_steps=steps)
        settings = replace(settings, run=run, optim=optim, samples=SampleSettings(), toybox_validation=None)
        model = train(settings, tmp_path / name, resume=True)
        assert model is not None
        return (model / "transformer/diffusion_pytorch_model.safetensors").read_bytes()

    run("resumed", 3)
    assert run("resumed", 5) == run("whole", 5)


def test_conflicting_settings_are_rejected(base):
    with pytest.raises(UserError, match="toybox clips have no encoded first frames"):
        replace(stage(base), add_image=True)
    with pytest.raises(UserError, match="validation and toybox_validation are both set"):
        replace(stage(base), validation="clips")
    with pytest.raises(UserError, match="the weight 0"):
        ToyboxSource(CLIPS, 0.0)
    with pytest.raises(UserError, match="'free' does not support the full grammar"):
        ToyboxSource(replace(CLIPS, grammar="full"))
    ToyboxSource(replace(CLIPS, grammar="full"), caption_styles=("plain",))
    with pytest.raises(UserError, match="num_toys=2 needs clips of the pair grammar"):
        ToyboxSource(replace(CLIPS, grammar="core"), num_toys=2)
